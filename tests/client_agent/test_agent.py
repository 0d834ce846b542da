"""Whole agents on a tiny real model, against the real door and the real aggregator."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from client_agent import room, session, settings, site_log, trainer
from client_agent import transport as door
from client_agent.agent import Agent
from client_agent.begun import Begun
from client_agent.cache import Cache, claimed
from client_agent.data import read_all
from coordinator.aggregator import compute as aggregation
from coordinator.aggregator.worker import Aggregator
from coordinator.state import setbacks
from coordinator.state.job_state import Job, Status
from coordinator.state.round_state import Phase
from coordinator.state.sites import SiteFacts
from fedgalore import chain
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import hash_file
from fedgalore.records import SimulationResult
from fedgalore.simulation import Site, simulate
from protos.codec import open_update
from tests.builders import ANY_JOB, a_spec, blob_path
from tests.client_agent.conftest import Coordinator, write_reviews
from tests.looking import round_of, rounds_of, traffic_of

LONG = 10_000  # steps that no test waits for


def configure(folder: Path, address: str, name: str = "a", **changes) -> Path:
    """An agent's config file; its reviews are readable, its `broken` set has a label outside any range."""
    site = folder / name
    site.mkdir(parents=True, exist_ok=True)
    write_reviews(site / "train.jsonl")
    write_reviews(site / "test.jsonl", count=8)
    write_reviews(site / "broken.jsonl", labels=(0, 77))
    columns = {"text": "text", "label": "label"}
    document = {
        "name": name,
        "coordinator": address,
        "work_dir": "work",
        "threads": 1,
        "device": "cpu",
        "data": {
            "reviews": {"train": "train.jsonl", "test": "test.jsonl", **columns},
            "broken": {"train": "broken.jsonl", **columns},
        },
        "policy": ANY_JOB,
    }
    path = site / "agent.yaml"
    path.write_text(yaml.safe_dump({**document, **changes}))
    return path


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[asyncio.Task[int]]:
    """An agent in this process; at the end it is asked to stop and must do so in order and in time."""
    chosen = settings.load(config)
    agent = Agent(chosen, read_all(chosen.data))
    running = asyncio.create_task(agent.run())
    try:
        yield running
    finally:
        agent.stop()
        code = await asyncio.wait_for(running, 10)
    assert code == session.STOPPED_ON_REQUEST


@asynccontextmanager
async def aggregating(coordinator: Coordinator) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(Aggregator(coordinator.engine.aggregator, coordinator.blobs).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def post(coordinator: Coordinator, model: Path, **sections) -> str:
    """A job that one agent can do."""
    rounds = {"count": 2, "min_clients": 1, "selection_wait_s": 0, **sections.pop("rounds", {})}
    source = {"source": str(model), "num_labels": 2}
    spec = a_spec(**{"method": {"kind": "fedgalore", "rank": 1}, **sections}, model=source, rounds=rounds)
    job, _ = await coordinator.engine.people.create(spec)
    return job.id


async def eventually(look: Callable[[], Awaitable[object]], timeout_s: float = 60) -> None:
    """Returns when `look` answers with something true."""
    end = time.monotonic() + timeout_s
    while not await look():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.05)


async def until(coordinator: Coordinator, job_id: str, wanted: Callable[[Job], bool], timeout_s: float = 60) -> Job:
    """Waits until `wanted` holds for the job. Returns the job."""

    async def look() -> bool:
        return wanted(await coordinator.engine.reader.job(job_id))

    await eventually(look, timeout_s)
    return await coordinator.engine.reader.job(job_id)


def final(job: Job) -> bool:
    return job.status.is_final


async def training(coordinator: Coordinator, job_id: str, client: str = "a") -> None:
    """Returns when the client has reported that it trains."""

    async def look() -> bool:
        return (await coordinator.engine.reader.live_progress(job_id)).get(client, {}).get("stage") == "train"

    await eventually(look)


async def test_a_job_that_would_show_one_example_is_refused_before_anything_is_loaded(
    coordinator, tiny_model, tmp_path
):
    attack = {"local": {"steps": 1, "batch_size": 1, "betas": [0, 0], "eps": 1, "learning_rate": 10}}
    config = configure(tmp_path, coordinator.address, policy={"least_clients": 1})
    async with serving(config):
        job_id = await post(coordinator, tiny_model, **attack)
        job = await until(coordinator, job_id, lambda job: job.status is Status.PAUSED)
    (check,) = job.sites.values()
    assert (check.code, check.facts) == ("policy.least_examples", None)
    assert check.problem.startswith(
        "local.steps: 1 x local.batch_size 1 is 1 examples an update, and has to be at least 32"
    )
    assert "fit the job, and rounds.min_clients is 1: a: local.steps: 1" in job.reason
    assert not [*(tmp_path / "a" / "work" / "blobs").rglob("*.*")]


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0, 0.6])
async def test_a_job_from_the_first_poll_to_the_final_evaluation(momentum, coordinator, tiny_model, tmp_path):
    config = configure(tmp_path, coordinator.address)
    method = {"rank": 2, "global_momentum": momentum, "state_sync": "ajive"}
    async with aggregating(coordinator), serving(config):
        job_id = await post(coordinator, tiny_model, method=method)
        job = await until(coordinator, job_id, final)
    assert (job.status, job.model.version) == (Status.COMPLETED, 2)
    rounds = await rounds_of(coordinator.engine, job_id)
    assert [(r.kind, r.participants["a"].evaluation.model_version) for r in rounds] == [
        ("train", 0),
        ("train", 1),
        ("evaluate", 2),
    ]
    assert all(r.participants["a"].evaluation.examples == 8 for r in rounds)
    assert rounds[0].participants["a"].receipt.num_examples == 16

    told = site_log.read(tmp_path / "a" / "work")
    lines = [(line["event"], line.get("kind") or line.get("what")) for line in told.lines]
    trained = [("task", "train"), *(("sends", what) for what in ("evaluation", "progress", "update")), ("ends", None)]
    assert lines[:3] == [("document", None), ("task", "check"), ("sends", "check")]
    assert lines[3:] == [*trained * 2, ("task", "evaluate"), ("sends", "evaluation"), ("ends", None)]
    sent = [(line["sha256"], line["bytes"]) for line in told.lines if line.get("what") == "update"]
    receipts = [each.participants["a"].receipt.blob for each in rounds[:2]]
    assert sent == [(blob.sha256, blob.size_bytes) for blob in receipts]
    assert told.problems == []

    traffic = await traffic_of(coordinator.engine, job_id)
    base = sum(blob.size_bytes for _, blob in job.prepared.base_model)
    assert traffic[1]["a"]["down"] == base  # version 0 is what comes of it here, too
    first, second = rounds[0].result, rounds[1].result
    assert first.weights is None
    assert momentum or first.aggregate.size_bytes < job.prepared.model.weights.size_bytes
    assert traffic[2]["a"]["down"] == first.aggregate.size_bytes + first.state.size_bytes
    assert traffic[3]["a"]["down"] == second.aggregate.size_bytes  # who only evaluates needs no state
    assert list((tmp_path / "a" / "work" / "updates").iterdir()) == []


class OtherProcessor(trainer.Trainer):
    """Rounds differently from the server. It has taken 49 steps since it last held the server's bits."""

    def begin(self, id: str) -> bool:
        begun = super().begin(id)
        self.unproven_steps = 49
        return begun

    def proves(self, version: int, weights_sha256: str) -> bool:
        return super().proves(version, "0" * 64)


@pytest.mark.slow
async def test_after_50_steps_that_round_otherwise_a_checkpoint_sets_it_right(
    coordinator, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "Trainer", OtherProcessor)
    monkeypatch.setattr(chain, "MOST_CUTS", 1)  # each version is a checkpoint
    method = {"rank": 2, "global_momentum": 0, "state_sync": "ajive"}
    async with aggregating(coordinator), serving(configure(tmp_path, coordinator.address)):
        job_id = await post(coordinator, tiny_model, method=method)
        assert (await until(coordinator, job_id, final)).status is Status.COMPLETED
    first, second, _ = [each.result for each in await rounds_of(coordinator.engine, job_id)]
    assert first.aggregate.size_bytes < first.weights.size_bytes  # a step is what an agent prefers
    down = {number: row["a"]["down"] for number, row in (await traffic_of(coordinator.engine, job_id)).items()}
    assert down[2] == sum(part.size_bytes for part in (first.aggregate, first.weights, first.state))  # the 50th step
    assert down[3] == second.aggregate.size_bytes  # steps again, from the server's bits


@pytest.mark.slow
async def test_who_missed_rounds_replays_them_also_across_a_checkpoint(coordinator, tiny_model, tmp_path, monkeypatch):
    """One of two sites is drawn for a round. Each fetches the cuts since its last round, and starts from equal bits."""
    monkeypatch.setattr(chain, "MOST_CUTS", 3)
    configs = {name: configure(tmp_path, coordinator.address, name) for name in "ab"}
    async with aggregating(coordinator), serving(configs["a"]), serving(configs["b"]):
        # a, a, a, a, b, b, a: b draws version 0, and replays four rounds; a then has missed two
        job_id = await post(coordinator, tiny_model, rounds={"count": 7}, evaluation={"every": 0}, seed=18)
        job = await until(coordinator, job_id, final)
    assert job.status is Status.COMPLETED
    rounds = (await rounds_of(coordinator.engine, job_id))[:-1]
    assert [each.result.chain.checkpoint.version for each in rounds] == [0, 0, 3, 3, 3, 6, 6]
    assert [*(client for each in rounds for client in each.participants)] == list("aaaabba")
    traffic, held = await traffic_of(coordinator.engine, job_id), {}
    base = sum(blob.size_bytes for _, blob in job.prepared.base_model)
    cuts = [each.result.aggregate.size_bytes for each in rounds]
    for each in rounds:
        (client,) = each.participants
        missed = sum(cuts[held.get(client, 0) : each.model_version])
        assert traffic[each.number][client]["down"] == missed + (base if client not in held else 0)
        held[client] = each.model_version
    sites = [site_of(configs[name]) for name in "ab"]
    simulated = await asyncio.to_thread(simulate, job.parsed, tiny_model, sites, torch.device("cpu"))
    weights = aggregation.whole_weights(job, job.model, coordinator.blobs)
    assert different(coordinator, weights, simulated) == []


def site_of(config: Path) -> Site:
    """The site of an agent's config."""
    chosen = settings.load(config)
    data = read_all(chosen.data)["reviews"]
    return Site(chosen.name, data.train.examples, data.test.examples)


def different(coordinator: Coordinator, weights: BlobRef, simulated: SimulationResult) -> list[str]:
    """Names of the weights whose bits differ from the simulation's."""
    stored = open_update(blob_path(coordinator.blobs, weights.sha256))
    assert set(stored.names) == set(simulated.weights)
    return [n for n in stored.names if not torch.equal(torch.tensor(stored.tensor(n)), simulated.weights[n])]


@pytest.mark.slow
async def test_a_base_model_that_lies_at_the_site_is_not_fetched(coordinator, tiny_model, tmp_path):
    config = configure(tmp_path, coordinator.address, models=[str(tiny_model)])
    async with aggregating(coordinator), serving(config):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})
        job = await until(coordinator, job_id, final)
    assert job.status is Status.COMPLETED
    assert (await traffic_of(coordinator.engine, job_id))[1]["a"]["down"] == 0


@pytest.mark.parametrize("name", ["../../evil.json", "{tmp_path}/evil.json", "pytorch_model.bin", "modeling_own.py"])
async def test_a_coordinator_cannot_make_a_site_write_elsewhere_or_take_a_program(
    coordinator, tiny_model, tmp_path, name
):
    name = name.format(tmp_path=tmp_path)
    spec = a_spec(model={"source": str(tiny_model), "num_labels": 2}, method={"kind": "fedgalore", "rank": 1})
    prepared = await asyncio.to_thread(aggregation.prepare, spec, coordinator.blobs)
    evil = replace(prepared, base_model=(*prepared.base_model, (name, prepared.base_model[0][1])))
    async with serving(configure(tmp_path, coordinator.address)):
        job_id = await post(coordinator, tiny_model)
        await coordinator.engine.aggregator.prepared(job_id, evil)
        await until(coordinator, job_id, lambda job: "bad model file" in job.reason)
    assert Path(name).name not in {path.name for path in tmp_path.rglob("*")}


@pytest.mark.slow
async def test_a_blob_that_the_coordinator_lost_fails_the_task_and_the_job_says_so(
    coordinator, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(setbacks, "FIRST_WAIT_S", 0.1)
    config = configure(tmp_path, coordinator.address)
    async with aggregating(coordinator):
        job_id = await post(coordinator, tiny_model)
        job = await until(coordinator, job_id, lambda job: job.prepared is not None)
        (_, lost), *_ = job.prepared.base_model
        blob_path(coordinator.blobs, lost.sha256).unlink()
        async with serving(config):
            job = await until(coordinator, job_id, lambda job: job.status is Status.PAUSED)
    assert f"the coordinator has lost blob {lost.sha256} of job {job_id}; ask its operator" in job.reason


@pytest.mark.slow
async def test_the_cache_is_pruned_however_a_task_ends(coordinator, tiny_model, tmp_path):
    config = configure(tmp_path, coordinator.address, cache_bytes=0)
    models = tmp_path / "a" / "work" / "models"
    junk = models / "junk"
    async with aggregating(coordinator), serving(config):
        for sections in ({}, {"data": {"name": "broken"}, "evaluation": {"every": 0}}):  # done, failed
            junk.mkdir(parents=True)
            (junk / "file").write_bytes(b"x")
            await post(coordinator, tiny_model, rounds={"count": 1}, **sections)
            await eventually(lambda: asyncio.to_thread(lambda: not junk.exists()))
        endless = await post(coordinator, tiny_model, local={"steps": LONG, "batch_size": 2})
        await training(coordinator, endless)
        junk.mkdir()
        (junk / "file").write_bytes(b"x")
        await coordinator.engine.people.cancel(endless)  # dropped
        await eventually(lambda: asyncio.to_thread(lambda: not junk.exists()))
        assert len(list(models.iterdir())) == 1  # the one in use


@pytest.mark.slow
async def test_an_update_of_another_job_is_left_alone(coordinator, tiny_model, tmp_path):
    other = tmp_path / "a" / "work" / "updates" / "other+1+a.safetensors"
    config = configure(tmp_path, coordinator.address)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    async with aggregating(coordinator), serving(config):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})
        await until(coordinator, job_id, final)
    assert list(other.parent.iterdir()) == [other]


@pytest.mark.slow
async def test_bad_labels_pause_the_job_before_a_byte_is_fetched_and_the_agent_goes_on_serving(
    coordinator, tiny_model, tmp_path
):
    config = configure(tmp_path, coordinator.address)
    async with aggregating(coordinator), serving(config):
        broken = await post(coordinator, tiny_model, data={"name": "broken"}, evaluation={"every": 0})
        paused = await until(coordinator, broken, lambda job: job.status is Status.PAUSED)
        for word in ("0 of 1 present sites fit the job", "8 of its 16 training examples", "num_labels"):
            assert word in paused.reason
        assert not any(word in paused.reason for word in ("broken.jsonl", "row 2", "77"))
        assert paused.sites["a"].code == "data.examples"
        facts = paused.sites["a"].facts
        assert replace(facts, memory_bytes=0) == SiteFacts(16, 0, 2, len("the food was very good"))
        assert facts.memory_bytes > 0
        assert await traffic_of(coordinator.engine, broken) == {}
        assert list((config.parent / "work" / "models").iterdir()) == []
        await coordinator.engine.people.cancel(broken)
        good = await post(coordinator, tiny_model, rounds={"count": 1})
        assert (await until(coordinator, good, final)).status is Status.COMPLETED


@pytest.mark.slow
async def test_a_cancelled_job_ends_training_and_the_next_job_is_taken(coordinator, tiny_model, tmp_path):
    config = configure(tmp_path, coordinator.address)
    async with aggregating(coordinator), serving(config):
        endless = await post(coordinator, tiny_model, local={"steps": LONG, "batch_size": 2})
        await training(coordinator, endless)
        await coordinator.engine.people.cancel(endless)
        good = await post(coordinator, tiny_model, rounds={"count": 1})
        assert (await until(coordinator, good, final)).status is Status.COMPLETED


@pytest.mark.slow
async def test_a_stopped_agent_takes_its_task_again(coordinator, tiny_model, tmp_path):
    config = configure(tmp_path, coordinator.address)
    async with aggregating(coordinator):
        job_id = await post(coordinator, tiny_model, local={"steps": 400, "batch_size": 2}, rounds={"count": 1})
        async with serving(config):
            await training(coordinator, job_id)
        assert (await coordinator.engine.reader.job(job_id)).round.participants["a"].receipt is None
        async with serving(config):
            job = await until(coordinator, job_id, final)
    assert job.status is Status.COMPLETED
    assert [r.number for r in await rounds_of(coordinator.engine, job_id)] == [1, 2]  # training, final evaluation


METHODS = {
    "what an update left out": {"kind": "fedgalore", "rank": 2},
    "a shared basis": {"kind": "fedgalore", "rank": 2, "basis": "shared"},
    "states of its own": {"kind": "fedgalore", "rank": 2, "state_sync": "local", "update_proj_gap": 1},
    "both": {"kind": "fedgalore", "rank": 2, "basis": "shared", "state_sync": "local"},
    "new adapters": {"kind": "flora", "rank": 2},
}


OFTEN = ("both", "new adapters")  # the others are parts of the first


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.proof) for name in METHODS]
)
async def test_restarts_and_abandoned_rounds_leave_the_bits_of_a_simulation_without_any(
    method, coordinator, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(setbacks, "FIRST_WAIT_S", 0.1)
    config = configure(tmp_path, coordinator.address)
    job_id = await post(coordinator, tiny_model, method=METHODS[method], rounds={"count": 3}, local={"batch_size": 3})
    spec = (await coordinator.engine.reader.job(job_id)).parsed
    prepared = await asyncio.to_thread(aggregation.prepare, spec, coordinator.blobs)
    await coordinator.engine.aggregator.prepared(job_id, prepared)
    for commits in (False, True, False, True, True):
        async with serving(config):
            job = await until(
                coordinator, job_id, lambda job: job.round is not None and job.round.phase is Phase.AGGREGATION
            )
        if commits:
            done = await asyncio.to_thread(aggregation.aggregate, job, coordinator.blobs, torch.device("cpu"))
            await coordinator.engine.aggregator.aggregated(job_id, job.round.number, done.model, {}, {})
        else:
            await coordinator.engine.aggregator.aggregation_failed(job_id, job.round.number, "the disk is full")
    phases = [each.phase for each in await rounds_of(coordinator.engine, job_id)][:5]
    assert phases == [Phase.ABANDONED, Phase.COMMITTED, Phase.ABANDONED, Phase.COMMITTED, Phase.COMMITTED]

    weights = await asyncio.to_thread(aggregation.whole_weights, job, done.model, coordinator.blobs)
    result = await asyncio.to_thread(simulate, spec, tiny_model, [site_of(config)], torch.device("cpu"))
    assert different(coordinator, weights, result) == []


@pytest.mark.slow
async def test_an_update_that_was_not_delivered_is_sent_after_a_restart(coordinator, tiny_model, tmp_path, logged):
    config = configure(tmp_path, coordinator.address)
    updates = tmp_path / "a" / "work" / "updates"
    async with aggregating(coordinator):
        job_id = await post(coordinator, tiny_model, local={"steps": 300, "batch_size": 2}, rounds={"count": 1})
        async with serving(config):
            await training(coordinator, job_id)
            await coordinator.stop()  # so the update has nowhere to go
            await eventually(lambda: asyncio.to_thread(lambda: list(updates.glob("*.safetensors"))))
        (update,) = updates.iterdir()
        written = hash_file(update)
        trained = sum(entry.get("state") == "training" for entry in logged)
        await coordinator.start()
        async with serving(config):
            assert (await until(coordinator, job_id, final)).status is Status.COMPLETED
    round_ = await round_of(coordinator.engine, job_id, 1)
    assert round_.participants["a"].receipt.blob.sha256 == written
    assert sum(entry.get("state") == "training" for entry in logged) == trained == 1


@pytest.mark.slow
async def test_an_update_that_came_too_late_is_that_of_the_next_try(
    coordinator, tiny_model, tmp_path, monkeypatch, logged
):
    monkeypatch.setattr(setbacks, "FIRST_WAIT_S", 0.1)
    submit = door.Transport.submit
    calls = coordinator.engine.aggregator

    async def late(self, path, blob, job_id, number):
        if number == 1:
            await calls.aggregation_failed(job_id, 1, "the round is abandoned meanwhile")
        return await submit(self, path, blob, job_id, number)

    monkeypatch.setattr(door.Transport, "submit", late)
    async with aggregating(coordinator), serving(configure(tmp_path, coordinator.address)):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})
        assert (await until(coordinator, job_id, final)).status is Status.COMPLETED
    assert (await round_of(coordinator.engine, job_id, 1)).phase is Phase.ABANDONED
    assert (await round_of(coordinator.engine, job_id, 2)).phase is Phase.COMMITTED
    assert sum(entry.get("state") == "training" for entry in logged) == 1


@pytest.mark.slow
async def test_a_full_disk_is_waited_for_and_told(coordinator, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "FIRST_WAIT_S", 0.3)
    monkeypatch.setattr("client_agent.agent.HEARTBEAT_S", 0.05)
    full = True
    assemble = Cache.assemble_model

    def while_full(*arguments):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return assemble(*arguments)

    monkeypatch.setattr(Cache, "assemble_model", while_full)
    async with aggregating(coordinator), serving(configure(tmp_path, coordinator.address)):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})

        async def told() -> bool:
            said = (await coordinator.engine.reader.live_progress(job_id)).get("a", {"stage": ""})["stage"]
            return said.startswith("waits: work_dir: its disk takes no more files") and str(tmp_path) not in said

        await eventually(told)
        full = False
        assert (await until(coordinator, job_id, final)).status is Status.COMPLETED
    assert (await round_of(coordinator.engine, job_id, 1)).participants["a"].failure is None


@pytest.mark.slow
async def test_a_disk_that_stays_full_lets_another_site_step_in(coordinator, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("client_agent.agent.PATIENCE_S", 1.0)
    monkeypatch.setattr("client_agent.assignment.size_bytes", lambda tensors: 10**18)
    async with aggregating(coordinator), serving(configure(tmp_path, coordinator.address)):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})
        await until(coordinator, job_id, lambda job: job.abandoned_in_a_row > 0)
    failure = (await round_of(coordinator.engine, job_id, 1)).participants["a"].failure
    assert "work_dir: its disk has " in failure and str(tmp_path) not in failure
    assert "the update of round 1 needs 2000000.0 TB" in failure


@pytest.mark.slow
async def test_a_site_that_runs_out_of_memory_fails_by_itself_and_the_job_goes_on(
    coordinator, tiny_model, tmp_path, monkeypatch
):
    train = trainer.Trainer.train

    def too_large_for_a(self, split, client, *arguments):
        if client == "a":
            torch.empty(2**44)
        train(self, split, client, *arguments)

    monkeypatch.setattr(trainer.Trainer, "train", too_large_for_a)
    configs = [configure(tmp_path, coordinator.address, name) for name in "ab"]
    async with aggregating(coordinator), serving(configs[0]) as first, serving(configs[1]):
        job_id = await post(
            coordinator,
            tiny_model,
            rounds={"count": 1, "over_selection": 2, "selection_wait_s": 5},
            local={"batch_size": 4},
        )
        assert (await until(coordinator, job_id, final)).status is Status.COMPLETED
        assert not first.done()
    parts = (await round_of(coordinator.engine, job_id, 1)).participants
    assert parts["b"].receipt is not None
    assert parts["a"].failure.startswith("this site ran out of memory while training ([enforce fail at alloc_cpu.cpp")
    assert parts["a"].failure.endswith(
        "; set local.micro_batch_size: 2 (now 4), local.activation_checkpointing: true or local.weights: bfloat16 with "
        "local.precision: bfloat16 in the job, or give this site more memory"
    )


@pytest.mark.slow
async def test_a_task_at_which_processes_die_is_given_up_in_time(coordinator, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(setbacks, "FIRST_WAIT_S", 0.1)
    begin, ended = Begun.begin, []
    monkeypatch.setattr(Begun, "begin", lambda note, task: begin(note, task) + (0 if ended else 3))
    async with aggregating(coordinator), serving(configure(tmp_path, coordinator.address)):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})
        await until(coordinator, job_id, lambda job: job.abandoned_in_a_row > 0)
        ended.append(True)
        assert (await until(coordinator, job_id, final)).status is Status.COMPLETED
    failure = (await round_of(coordinator.engine, job_id, 1)).participants["a"].failure
    assert failure.startswith(
        "this agent's process ended 3 times before the first step of this task, as where the system"
    )
    assert "; set local.micro_batch_size" in failure
    assert not (tmp_path / "a" / "work" / "begun.json").exists()


@pytest.mark.slow
async def test_a_forgotten_agent_registers_again(coordinator, tmp_path):
    async with serving(configure(tmp_path, coordinator.address)):
        await eventually(coordinator.engine.reader.agents)
        await coordinator.engine.people.forget_agent("a")
        await eventually(coordinator.engine.reader.agents)


@pytest.mark.slow
async def test_a_missing_test_split_fails_only_the_evaluation(coordinator, tiny_model, tmp_path):
    columns = {"text": "text", "label": "label"}
    config = configure(tmp_path, coordinator.address, data={"reviews": {"train": "train.jsonl", **columns}})
    async with aggregating(coordinator), serving(config):
        job_id = await post(coordinator, tiny_model, rounds={"count": 1})
        job = await until(coordinator, job_id, final)
    first, last = await rounds_of(coordinator.engine, job_id)
    assert (job.status, job.model.version) == (Status.COMPLETED, 1)
    assert first.participants["a"].evaluation is None
    assert "data.reviews.test: this site has no test split" in last.participants["a"].failure


async def test_a_second_machine_of_one_name_is_refused_and_the_first_goes_on(coordinator, tmp_path, logged):
    async with serving(configure(tmp_path, coordinator.address)) as first:
        await eventually(coordinator.engine.reader.agents)
        chosen = settings.load(configure(tmp_path / "other", coordinator.address))
        assert await asyncio.wait_for(Agent(chosen, read_all(chosen.data)).run(), 10) == session.REFUSED_BY_COORDINATOR
        reasons = [str(entry["reason"]) for entry in logged if entry.get("state") == "stopped"]
        assert ["another agent serves as 'a'" in reason and "free 3 s after" in reason for reason in reasons] == [True]
        assert not first.done()
        chosen = settings.load(configure(tmp_path, coordinator.address))  # a restart, before the first was missed
        with suppress(TimeoutError):
            await asyncio.wait_for(Agent(chosen, read_all(chosen.data)).run(), 0.5)
        assert [entry.get("state") for entry in logged].count("stopped") == 1


async def test_another_protocol_version_ends_the_agent(coordinator, tmp_path, monkeypatch, logged):
    monkeypatch.setattr(door, "PROTOCOL_VERSION", 7)
    monkeypatch.setattr(door, "OLDEST_PROTOCOL_VERSION", 6)
    chosen = settings.load(configure(tmp_path, coordinator.address))
    assert await asyncio.wait_for(Agent(chosen, read_all(chosen.data)).run(), 10) == session.REFUSED_BY_COORDINATOR
    refused = [entry for entry in logged if (entry["event"], entry.get("state")) == ("state_changed", "stopped")]
    assert [("7" in str(entry["reason"]), entry["log_level"]) for entry in refused] == [(True, "warning")]


# --- as a process ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_neither_torch_nor_transformers_is_imported_before_the_first_task():
    heavy = "{'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, client_agent.__main__; assert not {heavy}"], check=True)


async def start(config: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client_agent", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env={"OMP_NUM_THREADS": "1", "FEDGALORE_AGENT_LOG_FORMAT": "json"},
    )


@pytest.mark.slow
async def test_a_process_stops_on_sigterm_while_it_trains(coordinator, tiny_model, tmp_path):
    agent = await start(configure(tmp_path, coordinator.address))
    async with aggregating(coordinator):
        await training(coordinator, await post(coordinator, tiny_model, local={"steps": 10_000}))
        agent.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(agent.communicate(), 60)
    assert agent.returncode == 0, log.decode()
    (last,) = [line for line in map(json.loads, log.splitlines()) if line.get("state") == "stopped"]
    assert (last["event"], last["reason"]) == ("state_changed", "asked to stop")


@pytest.mark.slow
async def test_a_work_folder_that_another_agent_works_in_ends_the_process(tmp_path):
    with claimed(tmp_path / "a" / "work"):
        agent = await start(configure(tmp_path, "127.0.0.1:1"))
        _, log = await asyncio.wait_for(agent.communicate(), 60)
    assert (agent.returncode, "work_dir: another agent works in" in log.decode()) == (2, True), log.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"nmae": "x"}, "nmae: unknown key"),
        ({"data": {"d": {"train": "none.jsonl", "text": "text", "label": "label"}}}, "none.jsonl: cannot be read"),
    ],
)
async def test_a_config_that_cannot_be_used_ends_the_process_with_the_reason(tmp_path, changes, word):
    agent = await start(configure(tmp_path, "127.0.0.1:1", **changes))
    _, log = await asyncio.wait_for(agent.communicate(), 20)
    assert (agent.returncode, word in log.decode()) == (2, True), log.decode()
