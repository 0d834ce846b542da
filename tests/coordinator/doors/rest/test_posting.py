"""What is refused of a posted job at once: sources that nobody could read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.doors.rest.posting import Post, check_source
from coordinator.state.errors import InvalidJob, JobNotFound, StateUnavailable, VersionNotFound
from tests.builders import job_document
from tests.coordinator.doors.rest.stack import Stack, is_problem


async def no_version(job_id: str, version: str) -> object:
    raise AssertionError("nobody asked for a version of a job")


async def test_a_model_folder_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    for source in (
        str(tmp_path / "nowhere"),
        "./nowhere",
        "a/b/c",
        "x" * 4096,
        "~nobody-of-this-name/x",
        "my model",
        "a--b",
    ):
        with pytest.raises(InvalidJob) as caught:
            await check_source(source, True, no_version)
        assert caught.value.errors[0]["field"] == "model.source"
    with pytest.raises(InvalidJob, match=r"no config\.json"):
        await check_source(str(tmp_path), True, no_version)
    (row,) = await check_source("organisation/model", True, no_version)
    assert "is seen when the job is prepared" in row["problem"]
    (row,) = await check_source(str(tmp_path / "nowhere"), False, no_version)
    assert "is seen when the aggregator prepares the job" in row["problem"]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidJob, match=r"has no weights, such as model\.safetensors"):
        await check_source(str(tmp_path), True, no_version)
    (tmp_path / "model.safetensors").write_bytes(b"")  # which nobody reads here
    assert await check_source(str(tmp_path), True, no_version) == []


async def test_a_look_of_a_viewer_tells_nothing_of_this_machines_disk(stack: Stack, tmp_path: Path) -> None:
    post = Post(stack.engine.people, True, None, no_version)

    async def found(folder: Path, *, looks_here: bool) -> tuple[bool, list[str]]:
        body = json.dumps(job_document(model={"source": str(folder)})).encode()
        review = await post.review(body, "application/json", None, looks_here=looks_here)
        rows = [row for row in (*review.errors, *review.warnings) if row.field == "model.source"]
        return review.valid, [row.problem.replace(str(folder), "it") for row in rows]

    there, nowhere = tmp_path, tmp_path / "nowhere"
    assert await found(there, looks_here=True) != await found(nowhere, looks_here=True)
    assert await found(there, looks_here=False) == await found(nowhere, looks_here=False)
    assert (await found(nowhere, looks_here=False))[0]


@pytest.mark.parametrize("error", [JobNotFound("no job"), VersionNotFound("no version")])
async def test_a_version_that_is_not_there_is_a_problem_of_the_source(error: Exception) -> None:
    async def missing(job_id: str, version: str) -> object:
        assert (job_id, version) == ("job-1", "3")
        raise error

    with pytest.raises(InvalidJob) as caught:
        await check_source("job:job-1@3", True, missing)
    assert caught.value.errors == [{"field": "model.source", "problem": str(error)}]

    async def away(job_id: str, version: str) -> object:
        raise StateUnavailable("away")

    with pytest.raises(StateUnavailable):
        await check_source("job:job-1@3", True, away)


@pytest.mark.slow
async def test_a_job_starts_from_a_version_that_is_held(stack: Stack, tmp_path: Path) -> None:
    old = await stack.completed(tmp_path)

    def document(source: str) -> dict[str, object]:
        return job_document(model={"source": source})

    posted = await stack.post(document(f"job:{old.id}@1"))
    assert (posted.status_code, posted.json()["warnings"]) == (201, [])
    assert posted.json()["spec"]["model"]["source"] == f"job:{old.id}@1"
    for source, problem in (
        (f"job:{old.id}@7", f"version: 7 of job {old.id} does not exist yet"),
        ("job:job-0@1", "job 'job-0' does not exist"),
        (f"job:{posted.json()['id']}@0", "has no model yet"),
        (f"job:{old.id}", "write job:JOB@VERSION"),
    ):
        shown = is_problem(await stack.post(document(source)), 422, "invalid_job")
        assert shown["errors"][0]["field"] == "model.source"
        assert problem in shown["detail"]
