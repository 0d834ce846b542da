"""Jobs by what they are: filters, pages, tags and descriptions."""

from __future__ import annotations

import httpx
import pytest

from tests.builders import job_document
from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem


async def names(http: httpx.AsyncClient, query: str) -> list[str]:
    answer = await http.get(f"{JOBS}?{query}")
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["jobs"]]


async def test_jobs_are_found_by_all_that_is_given(stack: Stack) -> None:
    fedavg = {"method": {"kind": "fedavg"}}
    posted = [
        (await stack.http.post(f"{JOBS}?{query}", json=job_document(name=name, **sections))).json()
        for name, sections, query in (
            ("night-1", {}, "tag=nightly&tag=team:a&description=of%20all%20sites"),
            ("day-1", fedavg, "tag=team:a"),
            ("Night-2", fedavg, "tag=nightly"),
        )
    ]
    assert (posted[0]["tags"], posted[0]["description"]) == (["nightly", "team:a"], "of all sites")
    await stack.http.post(f"{JOBS}/{posted[2]['id']}/cancel")
    first, second, third = (each["name"] for each in posted)
    for query, expected in (
        ("status=CANCELLED&status=PENDING", [third, second, first]),
        ("status=CANCELLED", [third]),
        ("name=night", [third, first]),
        ("method=fedavg&method=fedit", [third, second]),
        ("tag=team:a&tag=nightly", [first]),
        ("tag=nightly&method=fedavg&name=2&status=CANCELLED", [third]),
        (f"created_after={posted[0]['created']}&created_before={posted[2]['created']}", [second]),
        ("tag=none", []),
    ):
        assert await names(stack.http, query) == expected, query
    page = (await stack.http.get(f"{JOBS}?tag=nightly&limit=1")).json()
    assert [row["name"] for row in page["jobs"]] == [third]
    assert await names(stack.http, f"tag=nightly&limit=1&after={page['next']}") == [first]
    told = is_problem(await stack.http.get(f"{JOBS}?created_after=2026-01-31"), 422, "invalid_request")["detail"]
    assert told.startswith("created_after: '2026-01-31' does not fit; give ")
    assert "name: is given 2 times" in (await stack.http.get(f"{JOBS}?name=a&name=b")).json()["detail"]
    models = (await stack.http.get("/api/v1/models")).json()
    assert models == {"models": [], "next": None}, "none is prepared"


async def test_labels_change_and_stay_in_bounds(stack: Stack) -> None:
    job = (await stack.post(job_document())).json()
    path = f"{JOBS}/{job['id']}"
    changed = await stack.http.patch(path, json={"tags": ["b", "a", "b"]})
    assert (changed.json()["tags"], changed.json()["description"], changed.json()["spec"]) == (
        ["a", "b"],
        "",
        job["spec"],
    )
    await stack.http.post(f"{path}/cancel")
    over = (await stack.http.patch(path, json={"description": "two\nlines"})).json()
    assert (over["tags"], over["description"], over["status"]) == (["a", "b"], "two\nlines", "CANCELLED")
    assert await names(stack.http, "tag=a&tag=b&status=CANCELLED") == ["tiny"]
    for body in (
        {"tags": ["a b"]},
        {"tags": [f"t{n}" for n in range(33)]},
        {"tags": ["x" * 64]},
        {"description": "x" * 2001},
        {"description": "\x1b[2J"},
        {"name": "other"},
        {"tags": "a"},
    ):
        told = is_problem(await stack.http.patch(path, json=body), 422, "invalid_request")
        assert told["errors"][0]["field"].startswith(next(iter(body)))
    assert (await stack.http.get(path)).json()["tags"] == ["a", "b"]
    is_problem(await stack.http.patch(f"{JOBS}/nope", json={}), 404, "job_not_found")
    for query in ("tag=a%20b", "description=%1b"):
        is_problem(await stack.http.post(f"{JOBS}?{query}", json=job_document()), 422, "invalid_request")
    audit = (await stack.http.get("/api/v1/audit")).json()["entries"]
    assert sum(row["method"] == "PATCH" and row["outcome"] == "200" for row in audit) == 2


async def test_validating_stores_nothing_and_is_not_audited(stack: Stack) -> None:
    path = f"{JOBS}:validate"
    good = (await stack.http.post(path, json=job_document())).json()
    assert (good["valid"], good["errors"], good["job"], good["spec"]["method"]["rank"]) == (True, [], None, 2)
    assert {row["field"] for row in good["warnings"]} == {"model.source", "data.name"}
    bad = (await stack.http.post(path, json=job_document(method={"rank": 0}, extra=1))).json()
    assert (bad["valid"], bad["spec"]) == (False, None)
    refused = is_problem(await stack.post(job_document(method={"rank": 0}, extra=1)), 422, "invalid_job")
    assert bad["errors"] == refused["errors"]
    is_problem(await stack.http.post(path, content="name: x"), 415, "unsupported_media_type")
    assert (await stack.http.get(JOBS)).json()["jobs"] == []
    entries = (await stack.http.get("/api/v1/audit")).json()["entries"]
    assert [row["path"] for row in entries] == [JOBS]


@pytest.mark.parametrize("path", ["metrics", "logs"])
async def test_there_is_nothing_of_a_job_that_does_not_exist(stack: Stack, path: str) -> None:
    is_problem(await stack.http.get(f"{JOBS}/nope/{path}"), 404, "job_not_found")
