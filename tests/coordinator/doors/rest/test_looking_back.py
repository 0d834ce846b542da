"""What a job leaves to look at: records of its metrics, its log, its models."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from coordinator.state.round_state import Round
from coordinator.store.redis_connection import PREFIX
from coordinator.store.redis_state_store import RedisStateStore
from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem


async def test_metrics_are_records_of_clients_and_of_all_together(stack: Stack, tmp_path: Path) -> None:
    job = await stack.completed(tmp_path)
    path = f"{JOBS}/{job.id}/metrics"
    page = (await stack.http.get(path)).json()
    assert page["next"] is None
    found = {
        (r["round"], r["client"], r["source"], r["metric"]): (r["value"], r["model_version"]) for r in page["metrics"]
    }
    assert found[1, None, "evaluation", "accuracy"] == (pytest.approx(0.8), 0)
    assert found[1, "b", "evaluation", "accuracy"] == (0.5, 0)
    assert found[2, "a", "evaluation", "loss"] == (0.25, 1)
    assert found[1, None, "training", "train_loss"] == (0.5, 0)
    assert found[1, None, "server", "rank"] == (2.0, 0)
    assert found[1, None, "server", "compute_s"] == (0.1, 0)
    assert found[1, None, "traffic", "up_bytes"] == (200, 0)
    assert found[1, "a", "traffic", "down_bytes"] == (300, 0)

    some = (await stack.http.get(f"{path}?metric=accuracy&metric=loss&client=a&limit=1")).json()
    assert [(r["round"], r["client"], r["metric"]) for r in some["metrics"]] == [(1, "a", "loss"), (1, "a", "accuracy")]
    assert some["next"] == 1
    as_csv = await stack.http.get(f"{path}?metric=accuracy&limit=1", headers={"Accept": "text/csv, */*;q=0.1"})
    assert as_csv.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert [(row["client"], row["value"]) for row in rows] == [("", "0.8"), ("a", "0.9"), ("b", "0.5")]
    follows = await stack.http.get(as_csv.links["next"]["url"], headers={"Accept": "text/csv"})
    assert [row["round"] for row in csv.DictReader(io.StringIO(follows.text))] == ["2"] * 3
    assert "next" not in follows.links


async def test_a_log_says_what_happened_in_order(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    for verb in ("pause", "resume"):
        await stack.http.post(f"{JOBS}/{job.id}/{verb}")
    await stack.trained(job, tmp_path, 1)
    await stack.http.post(f"{JOBS}/{job.id}/cancel")
    path = f"{JOBS}/{job.id}/logs"
    page = (await stack.http.get(path)).json()
    told = [(each["round"], each["text"].partition(":")[0]) for each in page["lines"] if each["event"] != "site.check"]
    assert told == [
        (None, "submitted"),
        (None, "running"),
        (1, "round opened"),
        (None, "paused by the operator; resume it to open the next round; round 1"),
        (None, "resumed"),
        (1, "round committed"),
        (2, "round opened"),
        (2, "round abandoned"),
        (None, "cancelled by the operator"),
    ]
    assert page["next"] is None
    assert page["lines"][0]["at"].endswith("Z")
    everything = (await stack.http.get(f"{path}?level=debug")).json()["lines"]
    assert {"client.report", "client.task", "client.evaluation"} <= {each["event"] for each in everything}
    paged, after = [], ""
    while after is not None:
        answer = (await stack.http.get(f"{path}?level=debug&limit=7{after and f'&after={after}'}")).json()
        paged, after = paged + answer["lines"], answer["next"]
    assert paged == everything
    last = (await stack.http.get(f"{path}?level=debug&limit=3&tail=true")).json()
    assert last == {"lines": everything[-3:], "next": None}
    for query in ("level=loud", "after=yesterday", "limit=501"):
        is_problem(await stack.http.get(f"{path}?{query}"), 422, "invalid_request")


async def test_models_are_listed_with_their_versions(
    stack: Stack, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"count": 12, "keep_versions": {"last": 2, "every": 4}}
    job = await stack.running(tmp_path, rounds=kept, evaluation={"keep": {"metric": "accuracy"}})
    for version in range(1, 11):
        await stack.trained(job, tmp_path, version)
    reads = []
    some = RedisStateStore.some_rounds

    async def counted(store: RedisStateStore, job_id: str, numbers: Sequence[int]) -> list[Round]:
        reads.append(numbers)
        return await some(store, job_id, numbers)

    monkeypatch.setattr(RedisStateStore, "some_rounds", counted)
    (model,) = (await stack.http.get("/api/v1/models?name=TIN")).json()["models"]
    assert len(reads) <= 5, "all versions are looked for together"
    assert (model["job"], model["name"], model["method"], model["source"]) == (
        job.id,
        "tiny",
        "fedgalore",
        "models/tiny",
    )
    assert [each["version"] for each in model["versions"]] == [10, 9, 8, 4, 0]
    assert model["kept"] == 5
    newest, before, *_, first = model["versions"]
    assert (newest["newest"], newest["best"], first["best"]) == (True, False, True)
    assert newest["metrics"] == {}, "nobody has evaluated it"
    for each in (before, *model["versions"][2:]):
        assert each["metrics"]["accuracy"] == pytest.approx(0.8)
        assert each["sha256"] == stack.version(tmp_path, each["version"]).weights.sha256
    assert (await stack.http.get("/api/v1/models?name=other")).json() == {"models": [], "next": None}

    other = await stack.running(tmp_path)
    async with Redis.from_url(redis_url) as redis:
        await redis.hset(f"{PREFIX}:job:{job.id}:rounds", "9", "{")
    listed = (await stack.http.get("/api/v1/models")).json()["models"]
    assert [each["job"] for each in listed] == [other.id], "what is damaged hides no other"
    is_problem(await stack.http.get(f"/api/v1/jobs/{job.id}/rounds"), 500, "job_unreadable")
