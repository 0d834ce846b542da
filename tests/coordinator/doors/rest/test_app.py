"""The REST door of a real coordinator on a real Redis; the test moves jobs through a separate engine."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from structlog.testing import capture_logs

from coordinator.doors.grpc import messages
from coordinator.doors.rest import readiness
from coordinator.engine import people_calls
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.state.errors import UnknownClient
from coordinator.state.job_events import LoadedBack
from coordinator.state.job_state import Prepared, Status
from coordinator.state.round_state import EvaluationResult
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.redis_server import free_port
from fedgalore.spec.plan import TrainingPlan
from fedgalore_cli.show.job import headline
from tests.builders import a_plan, a_receipt, a_result, a_spec, a_step_on, blob_path, job_document, put_bytes
from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem
from tests.looking import events_of


@pytest.mark.slow
async def test_a_job_is_posted_as_json_or_yaml_and_read_back(stack: Stack) -> None:
    posted = await stack.post(job_document())
    assert posted.status_code == 201
    job = posted.json()
    assert posted.headers["location"] == f"{JOBS}/{job['id']}"
    assert (job["status"], job["model_version"], job["rounds_total"], job["round"]) == ("PENDING", None, 2, None)
    assert job["spec"]["method"]["rank"] == 2
    assert job["created"].endswith("Z")
    text = yaml.safe_dump(job_document(name="second"))
    second = await stack.http.post(JOBS, content=text, headers={"content-type": "application/yaml; charset=utf-8"})
    assert second.status_code == 201
    again = (await stack.http.get(f"{JOBS}/{job['id']}")).json()
    assert again | {"reason": "", "updated": ""} == job | {"reason": "", "updated": ""}  # it says who is missing

    listed = (await stack.http.get(JOBS, params={"limit": 1})).json()
    assert [row["name"] for row in listed["jobs"]] == ["second"]
    rest = (await stack.http.get(JOBS, params={"limit": 1, "after": listed["next"]})).json()
    assert [row["name"] for row in rest["jobs"]] == ["tiny"]
    assert (await stack.http.get(JOBS, params={"status": "RUNNING"})).json() == {"jobs": [], "next": None}


@pytest.mark.slow
async def test_an_idempotency_key_creates_a_single_job(stack: Stack) -> None:
    first = await stack.post(job_document(), Idempotency_Key="k1")
    again = await stack.post(job_document(), Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    is_problem(await stack.post(job_document(seed=1), Idempotency_Key="k1"), 409, "idempotency_conflict")
    assert len((await stack.http.get(JOBS)).json()["jobs"]) == 1
    is_problem(await stack.post(job_document(), Idempotency_Key="x" * 201), 422, "invalid_request")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "field", "problem"),
    [
        ({"rnak": 8}, "rnak", "unknown key"),
        ({"method": {"rank": 0}}, "method.rank", "0 does not fit; give a whole number from 1 to 4096"),
        ({"local": {"learning_rate": float("nan")}}, "local.learning_rate", "nan does not fit"),
        ({"rounds": {"min_clients": 3, "goal_clients": 2}}, "rounds", "goal_clients (2) is below min_clients (3)"),
        ({"evaluation": {"max_examples": 10**4000}}, "evaluation.max_examples", "from 1 to"),
        ({"name": "../x"}, "name", "'../x' does not fit; give a name"),
        ({"data": {"name": "a/b"}}, "data.name", "'a/b' does not fit; give a name"),
        ({"\x1b": 1}, r"\x1b", "unknown key"),
        ({"\ud800": 1}, "document", "Unicode"),
        ({"evaluation": {"metrics": ["rouge"]}}, "evaluation.metrics", "'rouge' does not fit sequence-classification"),
    ],
)
async def test_a_bad_job_names_its_fields_and_changes_nothing(
    stack: Stack, document: dict[str, Any], field: str, problem: str
) -> None:
    body = json.dumps(job_document(**document))
    answer = await stack.http.post(JOBS, content=body, headers={"content-type": "application/json"})
    shown = is_problem(answer, 422, "invalid_job")
    assert [row["field"] for row in shown["errors"]] == [field]
    assert problem in shown["errors"][0]["problem"]
    assert (await stack.http.get(JOBS)).json()["jobs"] == []


@pytest.mark.slow
async def test_a_body_that_is_no_document_is_refused(stack: Stack) -> None:
    async def post(body: str, kind: str) -> httpx.Response:
        return await stack.http.post(JOBS, content=body, headers={"content-type": kind})

    assert "not valid JSON" in is_problem(await post("{", "application/json"), 422, "invalid_job")["detail"]
    assert "not valid YAML" in is_problem(await post("a: [", "application/yaml"), 422, "invalid_job")["detail"]
    for text in ("a: !!bool x", "a: &a [*a]", "a: 1\na: 2"):
        assert "not valid YAML" in is_problem(await post(text, "text/yaml"), 422, "invalid_job")["detail"]
    assert "not valid JSON" in is_problem(await post("[" * 10**5, "application/json"), 422, "invalid_job")["detail"]
    assert "mapping" in is_problem(await post("[1]", "application/json"), 422, "invalid_job")["detail"]
    is_problem(await post("name: x", "text/plain"), 415, "unsupported_media_type")
    is_problem(await post(" " * (2**20 + 1), "application/json"), 413, "request_entity_too_large")


@pytest.mark.slow
async def test_unknown_things_are_problems(stack: Stack) -> None:
    is_problem(await stack.http.get("/nothing"), 404, "not_found")
    is_problem(await stack.http.put(JOBS), 405, "method_not_allowed")
    for path in ("", "/rounds", "/rounds/1", "/events", "/model"):
        is_problem(await stack.http.get(f"{JOBS}/nope{path}"), 404, "job_not_found")
    is_problem(await stack.http.post(f"{JOBS}/nope/cancel"), 404, "job_not_found")
    job = (await stack.post(job_document())).json()["id"]
    is_problem(await stack.http.get(f"{JOBS}/{job}/rounds/7"), 404, "round_not_found")
    shown = is_problem(await stack.http.get(f"{JOBS}/{job}/rounds/x"), 422, "invalid_request")
    assert shown["errors"][0]["field"] == "number"
    is_problem(await stack.http.get(f"{JOBS}/{job}/model"), 409, "not_ready")
    is_problem(await stack.http.post(f"{JOBS}/{job}/pause"), 409, "illegal_transition")


@pytest.mark.slow
async def test_what_a_request_says_wrong_is_told_in_words_of_this_door(stack: Stack) -> None:
    back, json_ = f"{JOBS}/x/rollback", {"content-type": "application/json"}
    for method, path, request, words in (
        ("GET", f"{JOBS}?limit=abc", {}, "limit: 'abc' does not fit; give a whole number from 1 to 200"),
        (
            "GET",
            f"{JOBS}?status=foo",
            {},
            "status: 'foo' does not fit; give PENDING, RUNNING, PAUSED, COMPLETED, FAILED or",
        ),
        ("POST", f"{JOBS}?dry_run=", {}, "dry_run: '' does not fit; give true or false"),
        ("GET", f"{JOBS}/x/model?version=v", {}, "version: 'v' does not fit; give a text such as last, best or 3"),
        ("GET", f"{JOBS}/x/rounds/y", {}, "number: 'y' does not fit; give a whole number from 1 to 2147483647"),
        (
            "GET",
            f"{JOBS}/x/events",
            {"headers": {"Last-Event-ID": "z"}},
            "last-event-id: 'z' does not fit; give a text such",
        ),
        (
            "POST",
            back,
            {"json": {"version": "v"}},
            "version: 'v' does not fit; give a whole number from 0 to 2147483647 or best",
        ),
        (
            "POST",
            back,
            {"content": '{"version": 1, "version": 0}', "headers": json_},
            "body: not valid JSON: the key 'version' is given twice",
        ),
        (
            "POST",
            "/api/v1/join-tokens",
            {"json": {"client": "a", "valid_s": True}},
            "valid_s: true is a truth value; write a number in digits",
        ),
        ("POST", back, {"json": [1]}, "body: [1] does not fit; give a mapping with the key version"),
        (
            "POST",
            back,
            {"content": "version=3"},
            "body: 'version=3' does not fit; give a mapping with the key version; send it",
        ),
        (
            "POST",
            back,
            {},
            "body: is missing; give a mapping with the key version; send it with Content-Type: application/json",
        ),
        ("POST", back, {"content": "{v", "headers": json_}, "body: is not valid JSON (Expecting property name"),
        (
            "POST",
            back,
            {"json": {"versoin": 3}},
            "versoin: unknown key; remove it or check its spelling (did you mean version?)",
        ),
        (
            "POST",
            "/api/v1/keys",
            {"json": {"name": "a", "role": "b"}},
            "role: 'b' does not fit; give viewer or operator",
        ),
    ):
        told = is_problem(await stack.http.request(method, path, **request), 422, "invalid_request")["detail"]
        assert words in told
    deep = await stack.http.post(back, content="[" * 5000, headers=json_)
    assert "less deeply nested" in is_problem(deep, 400, "bad_request")["detail"]


async def test_a_job_is_steered(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    for verb, status in (("pause", "PAUSED"), ("resume", "RUNNING"), ("cancel", "CANCELLED")):
        answer = await stack.http.post(f"{JOBS}/{job.id}/{verb}")
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    is_problem(await stack.http.post(f"{JOBS}/{job.id}/resume"), 409, "illegal_transition")


async def test_a_round_in_flight_shows_what_its_clients_do(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    number = await stack.next_tasks("train")
    await stack.engine.agents.progress(job.id, number, "a", "train", 3, 0.5)
    await stack.engine.agents.report(job.id, number, "b", a_receipt())
    current = (await stack.http.get(f"{JOBS}/{job.id}")).json()["round"]
    assert (current["number"], current["phase"]) == (1, "REPORTING")
    assert "1 of 2 reports" in current["reason"]
    a, b = current["participants"]["a"], current["participants"]["b"]
    assert (a["stage"], a["step"], a["train_loss"], a["reported"]) == ("train", 3, 0.5, False)
    assert (b["stage"], b["reported"]) == (None, True)


async def test_rounds_and_evaluations_are_reported(stack: Stack, tmp_path: Path) -> None:
    job = await stack.completed(tmp_path)
    view = (await stack.http.get(f"{JOBS}/{job.id}")).json()
    assert (view["status"], view["model_version"], view["round"]) == ("COMPLETED", 1, None)
    assert view["evaluation"]["model_version"] == 1
    assert view["evaluation"]["metrics"]["accuracy"] == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert view["evaluation"]["clients"]["b"]["metrics"]["accuracy"] == 0.5
    assert (view["up_bytes"], view["down_bytes"]) == (200, 600)

    rounds = (await stack.http.get(f"{JOBS}/{job.id}/rounds")).json()["rounds"]
    assert [(each["kind"], each["phase"]) for each in rounds] == [("train", "COMMITTED"), ("evaluate", "COMMITTED")]
    first = rounds[0]
    assert first == (await stack.http.get(f"{JOBS}/{job.id}/rounds/1")).json()
    assert (first["model_version"], first["result_version"], first["up_bytes"]) == (0, 1, 200)
    assert first["dense_bytes"] == 4 * (6 * 4 + 2 * 4)
    assert first["statistics"] == {"rank": 2.0}
    assert first["timings"] == {"compute_s": 0.1}
    assert list(first["phase_at"]) == ["SELECTION", "CONFIGURATION", "REPORTING", "AGGREGATION", "COMMITTED"]
    assert list(first["phase_s"]) == ["SELECTION", "CONFIGURATION", "REPORTING", "AGGREGATION"]
    part = first["participants"]["a"]
    assert (part["num_examples"], part["up_bytes"], part["down_bytes"]) == (10, 100, 300)
    assert part["evaluation"] == {"model_version": 0, "examples": 30, "metrics": {"loss": 0.25, "accuracy": 0.9}}


@pytest.mark.slow
async def test_rounds_come_in_pages(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await stack.running(tmp_path, rounds={"count": 4})
    for version in (1, 2, 3):
        await stack.trained(job, tmp_path, version)
    await stack.next_tasks("train")

    read = TrainingPlan.from_dict
    reads: list[None] = []
    monkeypatch.setattr(TrainingPlan, "from_dict", lambda plan: reads.append(None) or read(plan))
    whole = (await stack.http.get(f"{JOBS}/{job.id}/rounds")).json()
    assert len(reads) == 1  # reading the plan of a large model takes long
    assert [each["number"] for each in whole["rounds"]] == [1, 2, 3, 4]
    assert whole["next"] is None

    async def page(**query: int) -> tuple[list[int], int | None]:
        answer = (await stack.http.get(f"{JOBS}/{job.id}/rounds", params=query)).json()
        return [each["number"] for each in answer["rounds"]], answer["next"]

    assert await page(limit=3) == ([1, 2, 3], 3)
    assert await page(limit=3, after=3) == ([4], None)
    assert await page(limit=4) == ([1, 2, 3, 4], None)
    assert await page(after=9) == ([], None)
    for query in ("limit=0", "limit=10001", "after=-1", "after=x"):
        is_problem(await stack.http.get(f"{JOBS}/{job.id}/rounds?{query}"), 422, "invalid_request")


async def streamed(http: httpx.AsyncClient, job: str, **headers: str) -> list[dict[str, str]]:
    """All events until the stream ends by itself."""
    rows: list[dict[str, str]] = []
    async with http.stream("GET", f"{JOBS}/{job}/events", headers=headers, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        block: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line and not line.startswith(":"):
                key, _, value = line.partition(": ")
                block[key] = value
            elif block:
                rows.append(block)
                block = {}
    return [row for row in rows if "event" in row]


@pytest.mark.slow
async def test_events_run_until_the_job_is_final_and_can_be_taken_up(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path, rounds={"count": 1})
    listening = asyncio.create_task(streamed(stack.http, job.id))
    await stack.trained(job, tmp_path, 1)
    await stack.evaluated(job, await stack.next_tasks("evaluate"), 1)
    await stack.engine.aggregator.loaded_back(job.id, LoadedBack(1))
    rows = await listening
    assert rows[0]["event"] == "job.status"
    assert rows[-1]["event"] == "end"
    phases = [json.loads(row["data"]) for row in rows if row["event"] == "round.phase"]
    assert [each["phase"] for each in phases if each["round"] == 1][-2:] == ["AGGREGATION", "COMMITTED"]
    assert json.loads(rows[-2]["data"])["status"] == "COMPLETED"

    middle = len(rows) // 2
    again = await streamed(stack.http, job.id, **{"Last-Event-ID": rows[middle]["id"]})
    assert again == rows[middle + 1 :]
    bad = await stack.http.get(f"{JOBS}/{job.id}/events", headers={"Last-Event-ID": "yesterday"})
    is_problem(bad, 422, "invalid_request")


async def test_a_round_shows_its_clients_as_one_test_set(stack: Stack, tmp_path: Path) -> None:
    evaluation = {"metrics": ["f1", "confusion_matrix", "mcc"]}
    job = await stack.running(tmp_path, evaluation=evaluation, model={"label_names": ["no", "yes"]})
    number = await stack.next_tasks("train")
    for client, right in (("a", 8.0), ("b", 2.0)):  # all of class "no", whatever it is
        by_class = (right, 0.0, 10.0, 0.0, 10.0, 0.0) if client == "a" else (right, 0.0, 2.0, 8.0, 10.0, 0.0)
        counts = {
            **a_result(0, 10).counts,
            "f1": by_class,
            "mcc": by_class,
            "confusion_matrix": (right, 10 - right, 0, 0),
        }
        await stack.engine.agents.evaluated(job.id, number, client, EvaluationResult(0, 10, {"loss": 1.0}, counts))
    measured = (await stack.http.get(f"{JOBS}/{job.id}/rounds/{number}")).json()["evaluation"]
    assert measured == {
        "model_version": 0,
        "examples": 20,
        "metrics": {"loss": pytest.approx(0.7), "accuracy": 0.5, "f1": pytest.approx(20 / 32 / 2)},
        "per_class": {"f1": {"no": pytest.approx(20 / 32), "yes": 0.0}},
        "confusion_matrix": [[10, 10], [0, 0]],
        "undefined": {"mcc": "all examples are of one class, or all predictions are"},
    }
    for client in ("a", "b"):
        await stack.engine.agents.report(job.id, number, client, a_receipt(client))
    await stack.engine.aggregator.aggregated(job.id, number, stack.version(tmp_path, 1), {}, {})
    told = (await stack.http.get("/metrics")).text
    assert f'fedgalore_job_metric{{job_id="{job.id}",metric="accuracy"}} 0.5' in told


async def test_why_there_is_no_value_and_no_best_version_is_shown(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path, rounds={"count": 2}, evaluation={"metrics": ["mcc"], "keep": {"metric": "mcc"}})
    number = await stack.next_tasks("train")
    one_class = {"mcc": (10, 0, 10, 0, 10, 0)}
    for name in ("a", "b"):
        result = a_result(0, 10, loss=0.5, accuracy=1.0)
        measured = EvaluationResult(0, 10, {"loss": 0.5, "accuracy": 1.0}, {**result.counts, **one_class})
        await stack.engine.agents.evaluated(job.id, number, name, measured)
        await stack.engine.agents.report(job.id, number, name, a_receipt(f"{name} {number}"))
    made = replace(stack.version(tmp_path, 1), held_out_failure="topics, held.csv: not UTF-8")
    await stack.engine.aggregator.aggregated(job.id, number, made, {}, {})
    shown = (await stack.http.get(f"{JOBS}/{job.id}")).json()
    assert (shown["best"], shown["held_out"], shown["held_out_failure"]) == (None, None, made.held_out_failure)
    why = shown["evaluation"]["undefined"]["mcc"]
    assert shown["no_best"] == f"mcc has no value ({why}), so no version is the best (evaluation.keep)"
    page = headline(shown)
    assert (
        shown["no_best"] in page
        and "version 1 could not be evaluated on what the coordinator holds out: topics" in page
    )
    await stack.next_tasks("train")
    rounds = (await stack.http.get(f"{JOBS}/{job.id}/rounds")).json()["rounds"]
    assert [each["held_out_failure"] for each in rounds] == [None, made.held_out_failure]


async def test_a_metric_that_is_not_allowed_is_refused_at_once(stack: Stack) -> None:
    answer = await stack.post(job_document(evaluation={"metrics": ["f1", "my_package.metrics:TOP"]}))
    (row,) = is_problem(answer, 422, "invalid_job")["errors"]
    assert row["field"] == "evaluation.metrics"
    assert row["problem"].startswith("my_package.metrics:TOP is not allowed at the coordinator")


async def test_models_are_streamed_with_their_size(stack: Stack, tmp_path: Path) -> None:
    job = await stack.completed(tmp_path)
    newest = await stack.http.get(f"{JOBS}/{job.id}/model")
    assert newest.headers["content-type"] == "application/x-tar"
    assert int(newest.headers["content-length"]) == len(newest.content)
    assert 'filename="tiny-v1.tar"' in newest.headers["content-disposition"]
    oldest = await stack.http.get(f"{JOBS}/{job.id}/model", params={"version": 0})
    file = blob_path(stack.blobs, stack.version(tmp_path, 1).weights.sha256).read_bytes()
    weights = file[8 + int.from_bytes(file[:8], "little") :]  # behind the header
    assert weights in newest.content
    assert weights not in oldest.content
    missing = is_problem(await stack.http.get(f"{JOBS}/{job.id}/model?version=2"), 404, "version_not_found")
    assert "does not exist yet" in missing["detail"]
    assert "kept are 0, 1" in missing["detail"]


async def test_a_version_without_whole_weights_is_made_whole_for_its_download(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await stack.running(tmp_path)
    number = await stack.next_tasks("train")
    for name in ("a", "b"):
        await stack.engine.agents.report(job.id, number, name, a_receipt(name))
    step = a_step_on(job.ready().model)
    await stack.engine.aggregator.aggregated(job.id, number, step, {}, {})
    path = f"{JOBS}/{job.id}/model"
    monkeypatch.setattr(people_calls, "WAIT_S", 0.05)
    early = await stack.http.get(path)
    assert "yet to make the whole weights of version 1" in is_problem(early, 503, "being_made")["detail"]
    assert early.headers["retry-after"] == "1"
    assert (await stack.engine.reader.job(job.id)).wanted == {1}
    monkeypatch.undo()

    asked = asyncio.create_task(stack.http.get(path))
    weights = stack.version(tmp_path, 1).weights
    assert weights is not None
    await stack.engine.aggregator.weights_made(job.id, 1, weights)
    assert 'filename="tiny-v1.tar"' in (await asked).headers["content-disposition"]
    await stack.engine.aggregator.weights_lost(job.id, 0, "blob 12 is damaged")
    assert (await stack.http.get(f"{path}?version=0")).status_code == 200  # its own weights are there


async def test_a_version_that_is_no_longer_kept_is_gone_at_once(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path, rounds={"count": 3, "keep_versions": {"last": 1}})
    for version in (1, 2):
        await stack.trained(job, tmp_path, version)
    assert stack.blobs.exists(stack.version(tmp_path, 1).weights.sha256), "the sweep has not been here"
    gone = is_problem(await stack.http.get(f"{JOBS}/{job.id}/model?version=1"), 404, "version_not_found")
    assert gone["detail"].endswith("1 of job " + job.id + " is no longer kept (rounds.keep_versions); kept are 0, 2")
    assert (await stack.http.get(f"{JOBS}/{job.id}/model?version=2")).status_code == 200


async def test_an_expected_agent_is_listed_before_it_has_come(stack: Stack) -> None:
    answer = await stack.http.post("/api/v1/agents", json={"name": "north"})
    assert answer.status_code == 201
    assert (answer.json()["present"], answer.json()["last_seen"]) == (False, None)
    assert (await stack.http.post("/api/v1/agents", json={"name": "north"})).status_code == 200
    with pytest.raises(UnknownClient):
        await stack.engine.agents.next_task("north")  # it has to register its datasets first

    await stack.engine.agents.register("north", PROTOCOL_VERSION, "0.1.0", {"reviews": 20})
    known = await stack.http.post("/api/v1/agents", json={"name": "north"})
    assert known.status_code == 200
    assert (known.json()["present"], known.json()["datasets"]) == (True, {"reviews": 20})
    is_problem(await stack.http.post("/api/v1/agents", json={"name": "../north"}), 422, "invalid_request")


async def test_agents_are_listed_and_forgotten(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    await stack.next_tasks("train")
    agents = (await stack.http.get("/api/v1/agents")).json()["agents"]
    assert [(agent["name"], agent["present"], agent["datasets"]) for agent in agents] == [
        ("a", True, {"reviews": 20}),
        ("b", True, {"reviews": 20}),
    ]
    assert agents[0]["task"] == {"job": job.id, "round": 1}
    assert (await stack.http.delete("/api/v1/agents/b")).status_code == 204
    is_problem(await stack.http.delete("/api/v1/agents/b"), 404, "agent_not_found")


async def test_the_best_version_is_served_beside_the_last(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path, rounds={"count": 3}, evaluation={"keep": {"metric": "accuracy"}})
    path = f"{JOBS}/{job.id}/model"
    early = is_problem(await stack.http.get(path, params={"version": "best"}), 409, "not_ready")
    assert "no version of job" in early["detail"]
    for version in (1, 2):  # of equal values the first stays the best
        await stack.trained(job, tmp_path, version)
    view = (await stack.http.get(f"{JOBS}/{job.id}")).json()
    assert view["best"] == {"model_version": 0, "metric": "accuracy", "value": 0.8, "by": "sites", "since": 1}
    assert "best is version 0: accuracy 0.8000 on the sites' examples" in headline(view)
    for version, number in (("best", 0), ("last", 2), ("2", 2)):
        answer = await stack.http.get(path, params={"version": version})
        assert f'filename="tiny-v{number}.tar"' in answer.headers["content-disposition"]
    assert (await stack.http.get(path)).headers["content-disposition"].endswith('-v2.tar"')
    for version in ("newest", "-1", "1.5", ""):
        is_problem(await stack.http.get(path, params={"version": version}), 422, "invalid_request")


def weights_in(model: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(model)) as tar:
        file = tar.extractfile("tiny/model.safetensors")
        assert file is not None
        return file.read()


async def test_a_version_is_made_current_again(stack: Stack, tmp_path: Path) -> None:
    job = await stack.completed(tmp_path)
    path = f"{JOBS}/{job.id}/rollback"
    for body in ({"version": -1}, {"version": "last"}, {}, {"version": 0, "force": True}, {"version": True}):
        is_problem(await stack.http.post(path, json=body), 422, "invalid_request")
    is_problem(await stack.http.post(path, json={"version": 7}), 404, "version_not_found")
    current = is_problem(await stack.http.post(path, json={"version": 1}), 409, "illegal_transition")
    assert "version: 1" in current["detail"]
    for _ in range(2):  # a second time changes nothing
        view = (await stack.http.post(path, json={"version": 0})).json()
        assert (view["status"], view["model_version"], view["rounds_done"], view["rounds_total"]) == ("PAUSED", 2, 0, 1)
        assert view["reason"].endswith("resume the job to train on (1 of 1 rounds are left)")
    assert [row["id"] for row in (await stack.http.get(JOBS, params={"status": "PAUSED"})).json()["jobs"]] == [job.id]
    models = [(await stack.http.get(f"{JOBS}/{job.id}/model?version={number}")).content for number in (0, 2)]
    assert weights_in(models[0]) == weights_in(models[1])
    assert (await stack.http.post(f"{JOBS}/{job.id}/resume")).status_code == 200
    await stack.trained(job, tmp_path, 3)
    await stack.evaluated(job, await stack.next_tasks("evaluate"), 3)
    assert (await stack.engine.aggregator.loaded_back(job.id, LoadedBack(3))).status is Status.COMPLETED


async def test_a_job_that_keeps_no_best_version_says_how_to(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    view = (await stack.http.get(f"{JOBS}/{job.id}")).json()
    assert view["best"] is None
    assert view["notes"] == []
    assert view["trains"].keys() == {"trained", "parameters", "ranks_lowered"}
    answer = await stack.http.get(f"{JOBS}/{job.id}/model", params={"version": "best"})
    assert "evaluation.keep" in is_problem(answer, 404, "version_not_found")["detail"]


@pytest.mark.slow
async def test_operations(stack: Stack, tmp_path: Path) -> None:
    await stack.completed(tmp_path)
    assert (await stack.http.get("/livez")).json() == {"live": True}
    ready = await stack.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["warnings"] == []
    assert all(check["ok"] for check in ready.json()["checks"].values())
    assert list(ready.json()["checks"]) == ["redis", "blobs", "binding", "state"]
    assert (await stack.http.get("/version")).json()["protocol_version"] == PROTOCOL_VERSION
    metrics = (await stack.http.get("/metrics")).text
    for line in (
        'fedgalore_jobs{status="COMPLETED"} 1.0',
        'fedgalore_rounds_total{outcome="committed"} 2.0',
        'fedgalore_client_bytes_total{direction="up"} 200.0',
        "fedgalore_agents_present 2.0",
        'fedgalore_http_requests_total{method="GET",route="/livez",status="200"} 1.0',
    ):
        assert line in metrics.splitlines()


async def test_openapi_tells_the_true_shapes(stack: Stack) -> None:
    document = (await stack.http.get("/openapi.json")).json()
    body = document["paths"][JOBS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert "rounds" not in document["components"]["schemas"]["JobSpec"]["required"]
    paged = document["paths"][f"{JOBS}/{{job_id}}/rounds"]["get"]["parameters"]
    assert {(each["in"], each["name"]) for each in paged} == {
        ("path", "job_id"),
        ("query", "limit"),
        ("query", "after"),
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            assert list(operation["responses"]["default"]["content"]) == ["application/problem+json"]
            assert "422" not in operation["responses"]


@pytest.mark.slow
async def test_the_page_of_the_api_is_served_from_here(stack: Stack) -> None:
    page = await stack.http.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    script = "/static-offline-docs/swagger-ui-bundle.js"
    assert script in page.text
    assert (await stack.http.get(script)).status_code == 200
    for path in ("nothing.js", "%2e%2e/core.py", ""):
        is_problem(await stack.http.get(f"/static-offline-docs/{path}"), 404, "not_found")
    is_problem(await stack.http.post(script), 405, "method_not_allowed")
    routes = {
        line.partition('route="')[2].partition('"')[0]
        for line in (await stack.http.get("/metrics")).text.splitlines()
        if line.startswith("fedgalore_http_requests_total")
    }
    assert routes == {"/docs", "/static-offline-docs"}


async def test_an_unexpected_error_has_an_id_and_no_traceback(stack: Stack, tmp_path: Path) -> None:
    job, _ = await stack.engine.people.create(a_spec(), None)
    template = (("config.json", put_bytes(stack.blobs, b"{}")),)  # has no place for the weights
    await stack.engine.aggregator.prepared(
        job.id, Prepared(a_plan().to_dict(), template, template, stack.version(tmp_path, 0))
    )
    with capture_logs() as logged:
        answer = await stack.http.get(f"{JOBS}/{job.id}/model")
    shown = is_problem(answer, 500, "internal_error")
    assert "Traceback" not in answer.text
    assert "layer.weight" not in answer.text
    assert [row["id"] for row in logged if row["event"] == "unexpected_error"] == [shown["id"]]


async def test_a_vanished_blob_store_is_named(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "SHARED_S", -1.0)
    job = await stack.completed(tmp_path)
    (tmp_path / "blobs").rename(tmp_path / "moved")
    (tmp_path / "blobs").write_text("in the way")
    ready = await stack.http.get("/readyz")
    assert ready.status_code == 503
    assert not ready.json()["checks"]["blobs"]["ok"]
    assert ready.json()["checks"]["redis"]["ok"]
    is_problem(await stack.http.get(f"{JOBS}/{job.id}/model"), 404, "blob_not_found")


async def test_blobs_of_another_redis_make_it_not_ready(
    stack: Stack, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "SHARED_S", -1.0)
    assert (await stack.http.get("/readyz")).status_code == 200
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    ready = await stack.http.get("/readyz")
    assert ready.status_code == 503
    shown = ready.json()["checks"]["binding"]
    assert not shown["ok"]
    assert "give the redis_url of the Redis that this blob_dir was used with, or an empty blob_dir" in shown["detail"]
    for answer in (await stack.post(job_document()), await stack.http.delete("/api/v1/agents/a")):
        assert "nothing is written" in is_problem(answer, 503, "state_unavailable")["detail"]
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists("fedgalore:jobs")


async def test_a_redis_that_may_lose_keys_makes_it_not_ready(
    stack: Stack, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "SHARED_S", -1.0)

    async def told() -> str:
        ready = await stack.http.get("/readyz")
        assert ready.status_code == 503
        return str(next(check["detail"] for check in ready.json()["checks"].values() if not check["ok"]))

    with redis.Redis.from_url(redis_url) as client:
        try:
            client.config_set("maxmemory-policy", "volatile-ttl")
            assert "maxmemory-policy volatile-ttl, by which it deletes jobs; set" in await told()
            client.set("a", "b", ex=1000)
            client.config_set("maxmemory", 1)
            with suppress(redis.RedisError):
                client.set("b", "c")
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            assert "CONFIG RESETSTAT" in await told()
            client.config_resetstat()
            client.config_set("maxmemory", 1)
            assert "takes no writes" in await told()
            refused = is_problem(await stack.post(job_document()), 503, "state_unavailable")
            assert "the state store is full" in refused["detail"]
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            client.config_resetstat()
        assert (await stack.http.get("/readyz")).status_code == 200
        client.set("fedgalore:refusal", "no blob is deleted: why")
        assert await told() == "no blob is deleted: why"
        assert "fedgalore_collector_refuses 1.0" in (await stack.http.get("/metrics")).text


@pytest.mark.slow
async def test_a_new_blob_directory_is_taken_with_a_warning(redis_url: str, tmp_path: Path) -> None:
    for name, warnings in (("old", 0), ("new", 1)):
        settings = CoordinatorSettings(
            redis_url=redis_url, blob_dir=tmp_path / name, rest_port=0, grpc_port=0, aggregator=False
        )
        async with (
            serving(settings, asyncio.Event()) as ports,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}") as http,
        ):
            ready = await http.get("/readyz")
            assert ready.status_code == 200
            assert len(ready.json()["warnings"]) == warnings
    assert "blob_dir is new" in ready.json()["warnings"][0]


@pytest.mark.slow
async def test_without_redis_the_process_lives_and_says_what_is_missing(tmp_path: Path) -> None:
    settings = CoordinatorSettings(
        redis_url=f"redis://127.0.0.1:{free_port()}", blob_dir=tmp_path, rest_port=0, grpc_port=0, aggregator=False
    )
    async with (
        serving(settings, asyncio.Event()) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", timeout=20) as http,
    ):
        assert (await http.get("/livez")).status_code == 200
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        assert not ready.json()["checks"]["redis"]["ok"]
        assert ready.json()["checks"]["blobs"]["ok"]
        answer = await http.get(JOBS)
        is_problem(answer, 503, "state_unavailable")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.slow
async def test_the_secret_of_a_private_job_is_shown_to_nobody(stack: Stack, tmp_path: Path) -> None:
    privacy = {"clip_norm": 1.0, "noise_multiplier": 1.0}
    job = await stack.running(tmp_path, method={"kind": "fedgalore", "rank": 2}, privacy=privacy)
    assert job.secret is not None
    assert len(job.secret) == 64
    number = await stack.next_tasks("train")
    task = await stack.engine.agents.next_task("a", wait_s=10)
    assert task is not None
    shown = [messages.task(task, "a").SerializeToString().decode("latin-1")]
    paths = (JOBS, f"{JOBS}/{job.id}", f"{JOBS}/{job.id}/rounds", f"{JOBS}/{job.id}/rounds/{number}")
    shown += [(await stack.http.get(path)).text for path in paths]
    shown += [json.dumps(row) for row in await events_of(stack.engine, job.id)]
    assert not any(job.secret in text for text in shown)
    assert (await stack.engine.people.create(a_spec()))[0].secret is None  # without privacy there is nothing to keep
