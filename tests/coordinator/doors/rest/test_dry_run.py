"""POST /jobs?dry_run=true: what a job would be, and what a real post would refuse."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fedgalore import PROTOCOL_VERSION
from tests.builders import job_document
from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem

DRY = {"dry_run": "true"}


async def tried(stack: Stack, document: Any, **headers: str) -> httpx.Response:
    return await stack.http.post(JOBS, json=document, params=DRY, headers=headers)


async def test_a_dry_run_makes_no_job_and_fills_in_the_defaults(stack: Stack) -> None:
    answer = await tried(stack, job_document())
    assert answer.status_code == 200
    trial = answer.json()
    assert trial["job"] is None
    assert (trial["spec"]["method"]["rank"], trial["spec"]["evaluation"]["every"]) == (2, 1)
    assert {row["field"] for row in trial["warnings"]} == {"model.source", "data.name"}
    assert (await stack.http.get(JOBS)).json()["jobs"] == []
    assert (await stack.http.post(JOBS, json=job_document(), params={"dry_run": "false"})).status_code == 201


async def test_a_dry_run_refuses_what_a_post_refuses_alike(stack: Stack) -> None:
    for document in (job_document(method={"rank": 0}, extra=1), [1]):
        dry, real = await tried(stack, document), await stack.http.post(JOBS, json=document)
        assert dry.json() == real.json()
        is_problem(dry, 422, "invalid_job")
    posted = (await stack.post(job_document(), Idempotency_Key="k")).json()
    assert (await tried(stack, job_document(), **{"Idempotency-Key": "k"})).json()["job"] == posted["id"]
    is_problem(await tried(stack, job_document(seed=1), **{"Idempotency-Key": "k"}), 409, "idempotency_conflict")
    is_problem(await stack.http.post(JOBS, json=job_document(), params={"dry_run": "maybe"}), 422, "invalid_request")


@pytest.mark.slow
async def test_a_data_set_that_nobody_offers_is_said_at_once(stack: Stack) -> None:
    for name, data in (("a", "reviews"), ("b", "notes"), ("c", "notes")):
        await stack.engine.agents.register(name, PROTOCOL_VERSION, "0.1.0", {data: 20})
    document = job_document(data={"name": "revews"})
    rows = [row for row in (await tried(stack, document)).json()["warnings"] if row["field"] == "data.name"]
    assert "nobody offers 'revews'; offered are notes (2 agents), reviews (1 agent)" in rows[0]["problem"]
    job = (await stack.post(document)).json()
    assert job["warnings"] == rows
    assert (await stack.http.post(f"{JOBS}/{job['id']}/cancel")).json()["warnings"] == []
    few = (await stack.post(job_document())).json()["warnings"]
    assert [row["field"] for row in few] == ["rounds.min_clients"]
    assert (await stack.post(job_document(data={"name": "notes"}))).json()["warnings"] == []
