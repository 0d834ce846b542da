"""Teams: whose key or group is of one sees and changes its jobs and its sites, and hears of no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from coordinator.doors.rest.teams import FILTERED
from coordinator.engine.assembly import Engine, assemble
from coordinator.state.errors import JobNotFound
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import job_document
from tests.coordinator.doors.access import OPERATOR, bearing, rest

pytestmark = pytest.mark.slow
EVERYBODY = bearing(OPERATOR)
JOB = "lungs-of-radiology"


@pytest.fixture
async def http(redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(redis_url, tmp_path, operator_key=SecretStr(OPERATOR)) as client:
        yield client


@pytest.fixture
async def engine(http: httpx.AsyncClient, redis_url: str) -> AsyncIterator[Engine]:
    """With a site of each team that offers the same data, and one of no team."""
    made = assemble(RedisStateStore(redis_url))
    for site in ("site-r", "site-c", "site-n"):
        await made.agents.register(site, PROTOCOL_VERSION, "1", {"reviews": 20})
    for site, team in (("site-r", "radiology"), ("site-c", "cardiology")):
        given = await http.patch(f"/api/v1/agents/{site}", json={"teams": [team]}, headers=EVERYBODY)
        assert (given.status_code, given.json()["teams"]) == (200, [team])
    yield made
    await made.close()


async def key(http: httpx.AsyncClient, team: str | None, role: str = "operator") -> dict[str, str]:
    made = await http.post("/api/v1/keys", json={"name": "ci", "role": role, "team": team}, headers=EVERYBODY)
    assert (made.status_code, made.json()["team"]) == (201, team)
    return bearing(made.json()["key"])


async def post(http: httpx.AsyncClient, headers: dict[str, str], **query: str) -> dict[str, Any]:
    document = job_document(name=JOB, data={"name": "reviews"})
    answer = await http.post("/api/v1/jobs", json=document, params=query, headers=headers)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def stripped(answer: httpx.Response, job_id: str) -> tuple[int, str]:
    return answer.status_code, answer.text.replace(job_id, "ID")


async def test_no_route_tells_another_team_of_a_job_or_a_site(http: httpx.AsyncClient, engine: Engine) -> None:
    job = (await post(http, await key(http, "radiology")))["id"]
    foreign, unknown = await key(http, "cardiology"), f"{job[:-1]}{'0' if job[-1] != '0' else '1'}"
    paths = (await http.get("/openapi.json")).json()["paths"]
    ways = {"job": 0, "filtered": 0, "refused": 0}
    for path, operations in paths.items():
        for method, operation in operations.items():
            if "security" not in operation:
                continue

            async def ask(job_id: str, path: str = path, method: str = method) -> httpx.Response:
                where = path.replace("{job_id}", job_id).replace("{number}", "1").replace("{name}", "site-r")
                return await http.request(
                    method, where.replace("{key_id}", "0").replace("{token_id}", "0"), headers=foreign
                )

            answer = await ask(job)
            if "{job_id}" in path:
                ways["job"] += 1
                assert answer.status_code == 404, path
                assert answer.json()["code"] == "job_not_found"
                assert stripped(answer, job) == stripped(await ask(unknown), unknown)
            elif operation["operationId"] in FILTERED:
                ways["filtered"] += 1
                assert not {job, JOB, "site-r"} & set(answer.text.replace('"', " ").split()), path
            else:
                ways["refused"] += 1
                assert answer.status_code == 403, path
                assert "is of team cardiology alone" in answer.json()["detail"]
    assert ways["job"] >= 14 and ways["filtered"] == len(FILTERED) and ways["refused"] >= 10
    assert (await engine.reader.job(job)).status == "PENDING"
    assert {agent.name for agent in await engine.reader.agents()} == {"site-r", "site-c", "site-n"}


async def test_a_team_hears_that_its_own_job_cannot_be_read(
    http: httpx.AsyncClient, engine: Engine, redis_url: str
) -> None:
    own, foreign = await key(http, "radiology"), await key(http, "cardiology")
    job = (await post(http, own))["id"]
    connection = RedisStateStore(redis_url).connection
    await connection.redis.hset(connection.job(job), "document", '{"format": 999}')
    await connection.close()
    seen = [(await http.get(f"/api/v1/jobs/{job}", headers=headers)).json()["code"] for headers in (own, foreign)]
    assert seen == ["job_too_new", "job_not_found"]


async def test_a_team_sees_and_steers_its_own(http: httpx.AsyncClient, engine: Engine) -> None:
    operator, viewer = await key(http, "radiology"), await key(http, "radiology", "viewer")
    job = await post(http, operator)
    assert (job["team"], list(job["sites"])) == ("radiology", ["site-r"])
    other, nobodys = await post(http, await key(http, "cardiology")), await post(http, EVERYBODY)
    assert (nobodys["team"], list(nobodys["sites"])) == (None, ["site-c", "site-n", "site-r"])
    for reader in (operator, viewer):
        listed = (await http.get("/api/v1/jobs", headers=reader)).json()["jobs"]
        assert [each["id"] for each in listed] == [job["id"]]
        agents = (await http.get("/api/v1/agents", headers=reader)).json()["agents"]
        assert [(agent["name"], agent["teams"]) for agent in agents] == [("site-r", ["radiology"])]
        assert (await http.get(f"/api/v1/jobs/{job['id']}/logs", headers=reader)).status_code == 200
    both = {"teams": ["cardiology", "radiology"]}
    assert (await http.patch("/api/v1/agents/site-r", json=both, headers=EVERYBODY)).json()["teams"] == both["teams"]
    (agent,) = (await http.get("/api/v1/agents", headers=viewer)).json()["agents"]
    assert agent["teams"] == ["radiology"]  # no word of the others
    everything = (await http.get("/api/v1/jobs", headers=EVERYBODY)).json()["jobs"]
    assert [each["id"] for each in everything] == [nobodys["id"], other["id"], job["id"]]
    assert (await http.post(f"/api/v1/jobs/{job['id']}/cancel", headers=viewer)).status_code == 403
    assert (await http.post(f"/api/v1/jobs/{job['id']}/cancel", headers=operator)).json()["status"] == "CANCELLED"


async def test_what_a_team_lacks_is_said_without_names_of_others(http: httpx.AsyncClient, engine: Engine) -> None:
    document = job_document(data={"name": "scans"})
    await engine.agents.register("site-c", PROTOCOL_VERSION, "1", {"scans": 20})
    seen = await http.post("/api/v1/jobs:validate", json=document, headers=await key(http, "radiology", "viewer"))
    (warning,) = [row["problem"] for row in seen.json()["warnings"] if row["field"] == "data.name"]
    assert warning.startswith("nobody offers 'scans'; offered are reviews (1 agent)")
    assert "site-c" not in seen.text


async def test_keys_of_idempotency_are_a_teams_own(http: httpx.AsyncClient, engine: Engine) -> None:
    made = []
    for headers in (await key(http, "radiology"), await key(http, "cardiology"), EVERYBODY):
        jobs = [
            await http.post("/api/v1/jobs", json=job_document(), headers={**headers, "Idempotency-Key": "nightly"})
            for _ in range(2)
        ]
        assert [each.status_code for each in jobs] == [201, 200]
        made.append(jobs[1].json()["id"])
    assert len(set(made)) == 3


async def test_a_job_cannot_begin_from_another_teams_model(http: httpx.AsyncClient, engine: Engine) -> None:
    job = (await post(http, await key(http, "radiology")))["id"]
    refusals = []
    for source in (job, f"{job[:-1]}{'0' if job[-1] != '0' else '1'}"):
        document = job_document(model={**job_document()["model"], "source": f"job:{source}@0"})
        answer = await http.post("/api/v1/jobs", json=document, headers=await key(http, "cardiology"))
        refusals.append(stripped(answer, source))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] == 422 and "does not exist" in refusals[0][1]


async def test_whoever_is_of_all_teams_names_one_and_others_take_theirs(
    http: httpx.AsyncClient, engine: Engine
) -> None:
    assert list((await post(http, EVERYBODY, team="cardiology"))["sites"]) == ["site-c"]
    cardiology = await key(http, "cardiology")
    assert (await post(http, cardiology, team="cardiology"))["team"] == "cardiology"
    answer = await http.post("/api/v1/jobs?team=radiology", json=job_document(), headers=cardiology)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert "take team cardiology" in answer.json()["detail"]


async def test_a_site_that_is_taken_from_a_team_is_asked_no_more(http: httpx.AsyncClient, engine: Engine) -> None:
    job = (await post(http, await key(http, "radiology")))["id"]
    assert (await engine.agents.job_of(job, "site-r")).id == job
    with pytest.raises(JobNotFound, match="there is no job"):
        await engine.agents.job_of(job, "site-c")
    await http.patch("/api/v1/agents/site-r", json={"teams": []}, headers=EVERYBODY)
    with pytest.raises(JobNotFound):
        await engine.agents.job_of(job, "site-r")
    again = await post(http, await key(http, "radiology"))
    assert again["sites"] == {}
    assert (await http.patch("/api/v1/agents/nobody", json={"teams": []}, headers=EVERYBODY)).status_code == 404
    await http.patch("/api/v1/agents/site-r", json={"teams": ["radiology"]}, headers=EVERYBODY)
    assert (await http.delete("/api/v1/agents/site-r", headers=EVERYBODY)).status_code == 204
    await engine.agents.register("site-r", PROTOCOL_VERSION, "1", {"reviews": 20})  # under a name that was free again
    (agent,) = [each for each in await engine.reader.agents() if each.name == "site-r"]
    assert agent.teams == frozenset()
