"""Both clients against a real coordinator, and against what they have in common with it and with each other."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel

from coordinator.doors.rest import access, app, audit, history, models, readiness, schemas
from coordinator.doors.rest.measurements import FIELDS
from coordinator.doors.rest.problems import FieldProblem
from fedgalore import PROTOCOL_VERSION
from fedgalore.client import AsyncClient, Client, Refused, TimedOut, Unreachable, WrongArgument, calls, download, shapes
from fedgalore.client.records import COLUMNS
from fedgalore.process.redis_server import free_port
from fedgalore.spec.job import parse
from tests.builders import job_document
from tests.coordinator.doors.rest.stack import Stack
from tests.fedgalore.client.played import Part, played


def url_of(stack: Stack) -> str:
    return str(stack.http.base_url)


def test_rows_of_metrics_have_the_columns_that_the_coordinator_answers() -> None:
    assert COLUMNS == FIELDS


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[inspect.Parameter]]:
        found = {name: each for name, each in vars(kind).items() if inspect.isfunction(each) and name[0] != "_"}
        return {name: list(inspect.signature(each).parameters.values()) for name, each in found.items()}

    assert methods(Client) == methods(AsyncClient)
    assert all(each.__doc__ for name, each in vars(Client).items() if inspect.isfunction(each) and name[0] != "_")


@pytest.mark.parametrize(
    ("shape", "answered"),
    [
        (shapes.Job, schemas.JobView),
        (shapes.JobSummary, schemas.JobSummary),
        (shapes.Round, schemas.RoundView),
        (shapes.Participant, schemas.ParticipantView),
        (shapes.LiveParticipant, schemas.LiveParticipant),
        (shapes.CurrentRound, schemas.CurrentRound),
        (shapes.ModelEvaluation, schemas.ModelEvaluation),
        (shapes.Evaluation, schemas.EvaluationView),
        (shapes.Best, schemas.BestVersion),
        (shapes.Site, schemas.SiteView),
        (shapes.Census, schemas.CensusView),
        (shapes.Alignment, schemas.AlignmentView),
        (shapes.Review, schemas.JobReview),
        (shapes.Model, models.ModelView),
        (shapes.ModelVersion, models.VersionView),
        (shapes.LogLine, history.LogLine),
        (shapes.DeletedJob, schemas.DeletedJob),
        (shapes.Agent, schemas.AgentView),
        (shapes.Task, schemas.TaskView),
        (shapes.Warned, FieldProblem),
        (shapes.MadeKey, access.MadeKey),
        (shapes.MadeJoinToken, access.MadeJoinToken),
        (shapes.AuditEntry, audit.AuditEntry),
        (shapes.Readiness, readiness.Readiness),
        (shapes.Check, readiness.Check),
        (shapes.Version, app.Version),
    ],
)
def test_a_shape_names_what_the_coordinator_answers(shape: type[BaseModel], answered: type[BaseModel]) -> None:
    """It may answer more, which `Shape` keeps."""
    assert shape.model_fields.keys() <= answered.model_fields.keys()


@pytest.mark.slow
async def test_a_job_is_read_whole_by_both_clients(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAGE", 1)  # every list takes several pages
    done = await stack.completed(tmp_path)
    async with AsyncClient(url_of(stack)) as client:
        job = await client.job(done.id)
        assert job.document() == (await stack.http.get(f"/api/v1/jobs/{done.id}")).json()
        assert (job.status, job.is_final, job.has_ended, job.evaluation.clients["b"].examples) == (  # type: ignore[union-attr]
            "COMPLETED",
            True,
            True,
            10,
        )
        rounds = await client.rounds(done.id)
        assert [(each.number, each.kind) for each in rounds] == [(1, "train"), (2, "evaluate")]
        metrics = await client.metrics(done.id)
        assert metrics.where(source="evaluation", client=None, metric="accuracy").column("value") == [0.8, 0.8]
        assert metrics.where(round=1, client="b", metric="accuracy").column("value") == [0.5]
        assert metrics.where(round=1, client=None, metric="up_bytes").column("value") == [200.0]
        lines = await client.logs(done.id, level="debug")
        assert lines[0].event == "job.status" and lines[-1].id == (await client.logs(done.id, tail=1))[0].id
        assert await client.logs(done.id, level="debug", after=lines[2].id) == lines[3:]
        assert [(each.job, each.versions[0].version) for each in await client.models()] == [(done.id, 1)]
        events = [event async for event in client.watch(done.id)]
        assert [event.data["status"] for event in events if event.type == "job.status"][-1] == "COMPLETED"
        assert [event async for event in client.watch(done.id, after=events[-2].id)] == events[-1:]
        other = await client.submit(job_document(), tags=["nightly"], description="a trial")
        assert (other.tags, other.description) == (["nightly"], "a trial")
        assert (await client.describe(other.id, tags=["weekly"])).description == "a trial"
        assert [each.name for each in await client.jobs()] == ["tiny", "tiny"]
        assert [each.id for each in await client.jobs(status=["completed", "FAILED"], name="TI")] == [done.id]
        assert [each.id for each in await client.jobs(tag=["weekly"], method=["fedgalore"], limit=1)] == [other.id]
        assert await client.jobs(created_after=datetime.now(UTC)) == []

    def in_step() -> None:
        with Client(url_of(stack)) as client:
            assert client.job(done.id) == job
            assert client.rounds(done.id, after=1) == rounds[1:]
            assert client.metrics(done.id) == metrics
            assert list(client.watch(done.id)) == events
            assert client.wait(done.id) == job
            whole = client.model(done.id, tmp_path / "whole", version=1)
            with monkeypatch.context() as patched:
                patched.setattr(download, "AGAIN_S", 0.001)
                lengths = breaks(patched)
                broken = client.model(done.id, tmp_path / "broken", version=1)
            first, second = lengths
            assert 0 < second < first  # the rest alone
            for name in ("fedgalore.json", "model.safetensors"):
                assert (broken / name).read_bytes() == (whole / name).read_bytes()

    await asyncio.to_thread(in_step)


def breaks(patched: pytest.MonkeyPatch) -> list[int]:
    """Lets the next answer that is streamed break behind its first chunk; returns the lengths of all, as they come."""
    read, lengths = httpx.Response.iter_raw, list[int]()

    def iter_raw(answer: httpx.Response) -> Iterator[bytes]:
        lengths.append(int(answer.headers["content-length"]))
        for chunk in read(answer):
            yield chunk
            if len(lengths) == 1:
                raise httpx.ReadError("the line broke")

    patched.setattr(httpx.Response, "iter_raw", iter_raw)
    return lengths


async def test_a_job_is_posted_steered_and_deleted(stack: Stack, tmp_path: Path) -> None:
    document = job_document()
    (tmp_path / "job.json").write_bytes(parse(document).model_dump_json().encode())
    async with AsyncClient(url_of(stack)) as client:
        with pytest.raises(Refused) as refused:
            await client.submit(job_document(method={"rank": 0}, extra=1))
        assert (refused.value.status, refused.value.code) == (422, "invalid_job")
        assert [row.field for row in refused.value.fields] == ["method.rank", "extra"]
        assert all(row.problem in str(refused.value) for row in refused.value.fields)
        review = await client.validate(job_document(method={"rank": 0}))
        assert (review.valid, [row.field for row in review.errors], review.spec) == (False, ["method.rank"], None)
        review = await client.validate(document)
        assert review.spec is not None
        assert (review.valid, review.spec["method"]["rank"], await client.jobs()) == (True, 2, [])
        first = await client.submit(document, idempotency="once")
        for same in (parse(document), tmp_path / "job.json"):
            assert (await client.submit(same, idempotency="once")).id == first.id
        with pytest.raises(TimedOut, match=f"job {first.id} is PENDING after 0.05 s, and goes on"):
            await client.wait(first.id, 0.05)
        with pytest.raises(Refused) as refused:
            await client.pause(first.id)
        assert (refused.value.status, refused.value.code) == (409, "illegal_transition")
        assert (await client.cancel(first.id)).status == "CANCELLED"
        seen: list[str] = []
        assert (await client.wait(first.id, on_change=lambda job: seen.append(job.status))).status == "CANCELLED"
        assert seen == ["CANCELLED"]
        assert (await client.delete(first.id)).id == first.id
        with pytest.raises(Refused, match="does not exist"):
            await client.job(first.id)


async def test_agents_keys_and_tokens_are_managed(stack: Stack) -> None:
    async with AsyncClient(url_of(stack)) as client:
        assert (await client.expect("site-1")).present is False
        token = await client.invite("site-1", valid_s=60)
        assert token.token.startswith("fgj_")
        assert [each.id for each in await client.join_tokens()] == [token.id]
        await client.revoke_join_token(token.id)
        assert await client.join_tokens() == []
        await client.forget("site-1")
        assert await client.agents() == []
        key = await client.create_api_key("ci", "viewer")
        assert [(each.id, each.role) for each in await client.api_keys()] == [(key.id, "viewer")]
        await client.revoke_api_key(key.id)
        assert [each.path for each in await client.audit(limit=2)][-1] == "/api/v1/keys"
        assert (await client.version()).protocol_version == PROTOCOL_VERSION
        assert (await client.readiness()).checks["redis"].ok


def test_nobody_there_is_said_with_the_address_and_what_is_wrong_is_not_asked_for(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url) as client:
        with pytest.raises(Unreachable, match=url) as away:
            client.version()
        assert (away.value.status, away.value.code) == (None, "unreachable")
        for job_id in ("", "..", "a/b"):
            with pytest.raises(WrongArgument, match="is no id of a job"):
                client.job(job_id)
        with pytest.raises(WrongArgument, match="cannot be read"):
            client.submit(tmp_path / "nowhere.yaml")
        with pytest.raises(WrongArgument, match="cannot be written as JSON"):
            client.submit({"rank": float("nan")})
        for key in ("schlüssel", "two words", "two\nlines", "", "x" * 201):
            with pytest.raises(WrongArgument, match="idempotency: .* is no key"):
                client.validate({}, idempotency=key)


def test_an_answer_that_comes_broken_is_said_in_a_sentence() -> None:
    broken = Part(200, {"Content-Type": "application/json", "Content-Encoding": "gzip", "Content-Length": "4"}, b"torn")
    with played(broken) as server, Client(server.url) as client, pytest.raises(Unreachable, match=server.url):
        client.jobs()
