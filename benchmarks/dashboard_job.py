"""A long job as its coordinator would hold it, and sites that go on with it, so that a page has something to show.

The rounds are made up: sites that differ, some of which fail, are late or are left out. Nothing is trained.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import redis
from pydantic import TypeAdapter

from coordinator.engine.assembly import Engine
from coordinator.state.job_state import Job
from coordinator.state.records import RoundTask
from coordinator.state.round_state import EvaluationResult, Participant, Phase, Round, UpdateReceipt
from coordinator.state.stream_events import changes
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.alignment import Alignment
from fedgalore.process.blob_ref import BlobRef
from fedgalore.version import PROTOCOL_VERSION, __version__
from tests.builders import a_blob, a_prepared, a_receipt, a_spec, a_version
from tests.sites import all_fit

ROUND = TypeAdapter(Round)
DATA = "notes"
LAYERS = tuple(f"encoder.layer.{number}" for number in range(6))
UPDATE_BYTES = 182_000
PHASES = ((Phase.SELECTION, 0.0), (Phase.CONFIGURATION, 1.2), (Phase.REPORTING, 2.5), (Phase.AGGREGATION, 21.0))
ROUND_S = 24.0
FAILURE = "the site's policy allows a learning rate of at most 0.001; this job's is 0.01"


def site_names(count: int) -> list[str]:
    return [f"site-{number:02}" for number in range(1, count + 1)]


async def enroll(engine: Engine, names: list[str]) -> None:
    """Registers agents that offer the data."""
    for number, name in enumerate(names):
        await engine.agents.register(name, PROTOCOL_VERSION, __version__, {DATA: 200 + 13 * number})


async def filled(
    engine: Engine, store: RedisStateStore, url: str, rounds: int, names: list[str], **sections: Any
) -> str:
    """A paused job that has so many rounds behind it, of agents that are enrolled afterwards; returns its id."""
    wanted = max(1, len(names) - 4)
    section = {"count": rounds + 40, "min_clients": wanted, "over_selection": len(names) / wanted, "deadline_s": 3600}
    spec = a_spec(data={"name": DATA}, rounds=section, **{"name": "departments", **sections})
    job, _ = await engine.people.create(spec, None)
    prepared = replace(a_prepared(), plan={**a_prepared().plan, "dense": [_head()]})
    await engine.aggregator.prepared(job.id, prepared)
    await engine.people.pause(job.id)
    loaded = await store.load(job.id)
    assert loaded is not None
    _stretch(url, loaded.job, rounds, names)
    return job.id


def _head() -> dict[str, Any]:
    """A head of some size, so that a dense upload is larger than an update."""
    return {**a_prepared().plan["dense"][0], "shape": [500, 2400]}


def _stretch(url: str, job: Job, rounds: int, names: list[str]) -> None:
    """Writes the rounds with their events and bytes, as the coordinator would have."""
    start = time.time() - ROUND_S * (rounds + 1)
    after = replace(job, rounds_opened=rounds, model=a_version(rounds), round=None, created_at=start - 30)
    past = [_round(number, start + ROUND_S * number, names, random.Random(number)) for number in range(1, rounds + 1)]
    key = f"fedgalore:job:{job.id}"
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
        pipe.hset(key, mapping={"document": after.to_json(), "round": ""})
        pipe.hset(f"{key}:rounds", mapping={str(each.number): ROUND.dump_json(each).decode() for each in past})
        traffic = {
            f"{each.number}/{client}/{way}": size
            for each in past
            for client, part in each.participants.items()
            for way, size in (("up", part.receipt.blob.size_bytes if part.receipt else 0), ("down", UPDATE_BYTES + 900))
        }
        pipe.hset(f"{key}:traffic", mapping=traffic)
        up = sum(size for name, size in traffic.items() if name.endswith("/up"))
        totals = {"committed": rounds, "evaluated": rounds, "up": up, "down": sum(traffic.values()) - up}
        pipe.hset(f"{key}:totals", mapping=totals)
        pipe.delete(f"{key}:events")
        for at, kind, data in sorted((row for each in past for row in _events(job, each)), key=lambda row: row[0]):
            pipe.xadd(f"{key}:events", {"type": kind, "data": json.dumps(data)}, id=f"{int(1000 * at)}-*")
        pipe.execute()


def _round(number: int, at: float, names: list[str], dice: random.Random) -> Round:
    participants = {name: _participant(name, place, number, at, dice) for place, name in enumerate(names)}
    return Round(
        number=number,
        kind="train",
        model_version=number - 1,
        phase=Phase.COMMITTED,
        reason=f"version {number} was made from {sum(1 for each in participants.values() if each.receipt)} updates",
        opened_at=at,
        evaluate=True,
        seats=len(names),
        phase_at={phase.value: at + after for phase, after in PHASES} | {Phase.COMMITTED.value: at + 22.4},
        participants=participants,
        result=a_version(number),
        timings={"read_s": 0.2, "compute_s": 0.9, "write_s": 0.3},
        statistics={"joint_rank": _joint_rank(number, 3), "explained_share": 0.6},
        alignment={
            layer: Alignment(
                _joint_rank(number, depth), {name: _alike(place, number, depth) for place, name in enumerate(names)}
            )
            for depth, layer in enumerate(LAYERS)
        },
    )


def _joint_rank(number: int, depth: int) -> float:
    return 8 * (1 - math.exp(-number / 15)) * (0.5 + depth / 12)


def _alike(place: int, number: int, depth: int) -> float:
    return min(
        1.0, 0.25 + 0.5 * (1 - math.exp(-number / 20)) + 0.02 * depth - (0.2 if place % 7 == 3 else 0.005 * place)
    )


def _participant(name: str, place: int, number: int, at: float, dice: random.Random) -> Participant:
    evaluation = result_of(place, number - 1, dice)
    taken_at = at + 1.3 + dice.random()
    match dice.random():
        case draw if draw < 0.02:
            return Participant(taken_at, failure=FAILURE, failure_code="policy.learning_rate")
        case draw if draw < 0.04:
            return Participant(taken_at, evaluation=evaluation)
        case draw if draw < 0.05:
            return Participant()
        case draw:
            loss = 1.4 * math.exp(-number / 25) + 0.1 * dice.random() + 0.01 * place
            blob = BlobRef(a_blob(f"{name} {number}").sha256, UPDATE_BYTES + dice.randrange(900))
            dropped = "its norm is 9.1 times the median of all; server.drop_norm leaves it out" if draw < 0.06 else None
            return Participant(
                taken_at, UpdateReceipt(blob, 200 + 13 * place, {"train_loss": loss}), evaluation, dropped=dropped
            )


def result_of(place: int, version: int, dice: random.Random) -> EvaluationResult:
    """What a site measures of a version: better with time, and worse at some sites than at others."""
    accuracy = min(1.0, 0.5 + (0.42 - 0.006 * place) * (1 - math.exp(-version / 18)) + 0.02 * dice.random())
    values = {"loss": 1.2 * (1.05 - accuracy), "accuracy": accuracy}
    examples = 40 + place
    counts: dict[str, Any] = {name: (value * examples, float(examples)) for name, value in values.items()}
    return EvaluationResult(version, examples, values, counts)


def _events(job: Job, done: Round) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """What happened in a round, each with its time."""
    for kind, data in changes(job, replace(job), done, ""):
        part = done.participants.get(str(data.get("client")), Participant())
        began, place = part.taken_at or done.opened_at, int(str(data.get("client", "-0")).rpartition("-")[2] or 0)
        took = {"client.evaluation": 2.0 + 0.05 * place, "client.report": 9.0 + 0.2 * place, "client.failure": 0.4}
        ended = done.phase_at[Phase.AGGREGATION.value] if kind == "client.late" else began + took.get(kind, 0.0)
        yield data.get("at", ended), kind, data


class Sites:
    """Agents that take the tasks of a running job, one after the other, some of which have stopped."""

    def __init__(self, engine: Engine, job_id: str, names: list[str], pause_s: float = 0.3) -> None:
        self._engine, self._job_id, self._names, self._pause_s = engine, job_id, names, pause_s

    async def play(self) -> None:
        """Rounds without an end: cancel it."""
        while True:
            await all_fit(self._engine)
            await self._round()

    async def _round(self) -> None:
        taken: dict[int, None] = {}
        dice = random.Random(time.time())
        for place, name in enumerate(self._names):
            task = await self._engine.agents.next_task(name, wait_s=0.2)
            if not isinstance(task, RoundTask):
                await asyncio.sleep(self._pause_s)
                continue
            number, version = task.round.number, task.round.model_version
            taken[number] = None
            result = result_of(place, version, dice)
            await self._engine.agents.progress(self._job_id, number, name, "training", 1, 0.5)
            await self._engine.agents.evaluated(self._job_id, number, name, result)
            await asyncio.sleep(self._pause_s)
            for way in ("up", "down"):
                await self._engine.agents.count_traffic(self._job_id, number, name, way, UPDATE_BYTES)
            await self._engine.agents.report(self._job_id, number, name, a_receipt(f"{name} {number}"))
        for number in taken:
            job = await self._engine.reader.job(self._job_id)
            if job.round and job.round.number == number and job.round.phase is Phase.AGGREGATION:
                version = job.round.model_version + 1
                await self._engine.aggregator.aggregated(
                    self._job_id, number, a_version(version), {"compute_s": 1.0}, {}
                )
