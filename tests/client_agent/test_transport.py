"""The transport against the real door: every call, broken connections, a coordinator that is away."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from client_agent import transport as door
from client_agent.cache import Cache
from client_agent.errors import (
    AgentRefused,
    AgentUnknown,
    CoordinatorAway,
    InvalidExchange,
    RoundOver,
)
from client_agent.transport import Transport
from coordinator.state.job_state import Prepared
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import hash_file, ref_of_file
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import UPDATE_FORMAT, update_tensors
from fedgalore.spec.plan import Dense, TrainingPlan
from protos import CHUNK_BYTES
from protos import federation_pb2 as pb
from protos.codec import SafetensorsWriter
from protos.federation_pb2_grpc import FederationStub
from tests.builders import a_spec, blob_path, put_bytes, whole_version
from tests.looking import round_of, traffic_of

MB = 2**20
PLAN = TrainingPlan((), (Dense("head.weight", (MB,)),))  # an update of 4 MiB
IN_FULL = {"bits": 32}


@asynccontextmanager
async def connected(address: str, client: str = "a", patience_s: float = 20.0) -> AsyncIterator[Transport]:
    transport = Transport(address, client, patience_s)
    try:
        yield transport
    finally:
        await transport.close()


@dataclass
class Line:
    """A line to the coordinator, and the bytes that went over it."""

    address: str = ""
    up: int = 0
    down: int = 0


@asynccontextmanager
async def cutting(port: int, *after_bytes: int) -> AsyncIterator[Line]:
    """A line to `port` that breaks after so many bytes either way, once for each number; then it holds."""
    left, line = list(after_bytes), Line()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        moved = 0

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal moved
            while data := await source.read(4096):
                moved += len(data)
                if source is reader:
                    line.up += len(data)
                else:
                    line.down += len(data)
                if left and moved > left[0]:
                    left.pop(0)
                    writer.transport.abort()
                    downstream.transport.abort()
                    return
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, downstream), pump(upstream, writer), return_exceptions=True)
        writer.close()
        downstream.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    line.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield line
    finally:
        server.close()
    assert not left, "the line was never cut"


@asynccontextmanager
async def slow(port: int, bytes_per_s: float) -> AsyncIterator[str]:
    """Address of a line to `port` that carries so much upwards."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)

        async def up() -> None:
            while data := await reader.read(2**14):
                await asyncio.sleep(len(data) / bytes_per_s)
                downstream.write(data)
            downstream.close()

        async def down() -> None:
            while data := await upstream.read(2**16):
                writer.write(data)
            writer.close()

        await asyncio.gather(up(), down(), return_exceptions=True)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def running_job(coordinator, plan: TrainingPlan = PLAN, **rounds) -> tuple[str, JobSpec, bytes]:
    """A job that needs one client, with 5 MiB of random weights."""
    content = os.urandom(5 * MB)
    weights = put_bytes(coordinator.blobs, content)
    spec = a_spec(wire=IN_FULL, rounds={"count": 1, "min_clients": 1, "selection_wait_s": 0, **rounds})
    job, _ = await coordinator.engine.people.create(spec)
    files = (("config.json", BlobRef(weights.sha256, weights.size_bytes)),)
    await coordinator.engine.aggregator.prepared(
        job.id, Prepared(plan.to_dict(), files, files, whole_version(0, weights))
    )
    return job.id, spec, content


def weights_of(task: pb.Task) -> BlobRef:
    """The checkpoint that a task names."""
    return BlobRef(task.chain.checkpoint.sha256, task.chain.checkpoint.size_bytes)


async def take_task(transport: Transport) -> pb.Task:
    await transport.register({"reviews": 12})
    return await next_round_task(transport)


async def next_round_task(transport: Transport, client: str = "a") -> pb.Task:
    """The next task of a round; says to a check before it that the data fit."""
    task = await transport.next_task(10)
    assert task is not None
    if task.kind != pb.Task.KIND_CHECK:
        return task
    await transport.report_check(pb.ReportCheckRequest(client=client, job_id=task.job_id))
    return await next_round_task(transport, client)


def write_update(folder: Path, task: pb.Task, client: str = "a", **metadata: str) -> tuple[Path, BlobRef]:
    fields = {
        "format": UPDATE_FORMAT,
        "job": task.job_id,
        "round": str(task.round),
        "client": client,
        "num_examples": "12",
        "decay": "1.0",
        "metrics": '{"train_loss": 0.5}',
    }
    path = folder / "update.safetensors"
    with SafetensorsWriter(
        path, update_tensors(a_spec(wire=IN_FULL), PLAN, "site-a", 1), {**fields, **metadata}
    ) as writer:
        writer.write("head.weight/delta", np.full(MB, 0.25, dtype=np.float32))
    return path, ref_of_file(path)


async def test_registers_and_polls(coordinator):
    async with connected(coordinator.address) as transport:
        answer = await transport.register({"reviews": 12})
        assert answer.presence_s == 3
        assert await transport.next_task(0.1) is None
        job_id, _, _ = await running_job(coordinator)
        asked = await transport.next_task(10)
        assert (asked.job_id, asked.kind, asked.base_model) == (job_id, pb.Task.KIND_CHECK, [])
        assert not asked.HasField("chain")
        task = await next_round_task(transport)
        assert (task.job_id, task.round, task.kind, task.model_version) == (job_id, 1, pb.Task.KIND_TRAIN, 0)
        assert [agent.datasets for agent in await coordinator.engine.reader.agents()] == [{"reviews": 12}]


async def test_another_protocol_version_is_refused_with_both_versions(coordinator, monkeypatch):
    ours = door.PROTOCOL_VERSION
    monkeypatch.setattr(door, "PROTOCOL_VERSION", 7)
    monkeypatch.setattr(door, "OLDEST_PROTOCOL_VERSION", 6)
    async with connected(coordinator.address) as transport:
        with pytest.raises(AgentRefused, match="speaks 6 to 7") as caught:
            await transport.register({"reviews": 12})
        assert f"speaks {ours}" in str(caught.value)
    assert await coordinator.engine.reader.agents() == []


async def test_an_unknown_agent_is_asked_to_register(coordinator):
    async with connected(coordinator.address) as transport:
        with pytest.raises(AgentUnknown, match="register"):
            await transport.next_task(0)


async def test_downloads_once_and_checks_the_content(coordinator, tmp_path):
    _, _, content = await running_job(coordinator)
    cache = Cache(tmp_path / "work")
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        blob = weights_of(task)
        path = await transport.download(blob, cache, task.job_id, task.round)
        assert path.read_bytes() == content
        await coordinator.stop()
        assert await transport.download(blob, cache, task.job_id, task.round) == path


async def test_a_cut_download_goes_on_where_it_broke(coordinator, tmp_path):
    _, _, content = await running_job(coordinator)
    async with cutting(coordinator.port, 2 * MB) as line, connected(line.address) as transport:
        task = await take_task(transport)
        cache = Cache(tmp_path / "work")
        blob = weights_of(task)
        path = await transport.download(blob, cache, task.job_id, task.round)
        assert path.read_bytes() == content


async def test_a_download_goes_on_from_the_part_of_an_earlier_process(coordinator, tmp_path):
    _, _, content = await running_job(coordinator)
    cache = Cache(tmp_path / "work")
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        blob = weights_of(task)
        cache.partial(blob).write_bytes(content[: 4 * MB])
        await transport.download(blob, cache, task.job_id, task.round)
    traffic = await traffic_of(coordinator.engine, task.job_id)
    assert traffic[task.round]["a"]["down"] == MB


@pytest.mark.slow
async def test_a_damaged_part_is_thrown_away_and_fetched_anew(coordinator, tmp_path):
    _, _, content = await running_job(coordinator)
    cache = Cache(tmp_path / "work")
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        blob = weights_of(task)
        for damage in (b"x" * MB, b"x" * blob.size_bytes, b"x" * (blob.size_bytes + 1)):
            cache.partial(blob).write_bytes(damage)
            path = await transport.download(blob, cache, task.job_id, task.round)
            assert path.read_bytes() == content
            path.unlink()


async def test_content_that_never_fits_its_hash_is_rejected(coordinator, tmp_path):
    await running_job(coordinator)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        blob = weights_of(task)
        blob_path(coordinator.blobs, blob.sha256).write_bytes(b"y" * blob.size_bytes)
        with pytest.raises(InvalidExchange, match="another content"):
            await transport.download(blob, Cache(tmp_path / "work"), task.job_id, task.round)


async def test_an_update_is_accepted_once(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task)
        assert "update of a is in round 1" in await transport.submit(path, blob, job_id, 1)
        assert await transport.submit(path, blob, job_id, 1) == "accepted before"
    receipt = (await round_of(coordinator.engine, job_id, 1)).participants["a"].receipt
    assert (receipt.blob.sha256, receipt.num_examples, receipt.metrics) == (blob.sha256, 12, {"train_loss": 0.5})


@pytest.mark.slow
async def test_a_cut_upload_goes_on_where_the_coordinator_has_it(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with cutting(coordinator.port, 2 * MB, 2 * MB) as line, connected(line.address) as transport:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task)
        await transport.submit(path, blob, job_id, 1)
    round_ = await round_of(coordinator.engine, job_id, 1)
    assert round_.participants["a"].receipt.blob.sha256 == blob.sha256
    assert blob_path(coordinator.blobs, blob.sha256).read_bytes() == path.read_bytes()
    traffic = await traffic_of(coordinator.engine, job_id)
    assert traffic[1]["a"]["up"] <= blob.size_bytes + 2 * MB  # no byte that the coordinator held came twice


def four_cuts(seed: int) -> list[int]:
    """Bytes after which a line breaks."""
    chance = random.Random(seed)
    return [int(chance.uniform(0.05, 1.5) * MB) for _ in range(4)]


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.proof) for seed in range(1, 5))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_cut_costs_less_than_a_chunk(coordinator, tmp_path, seed):
    job_id, _, _ = await running_job(coordinator)
    cuts = four_cuts(seed)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
    path, blob = write_update(tmp_path, task)
    async with cutting(coordinator.port, *cuts) as line, connected(line.address) as transport:
        await transport.submit(path, blob, job_id, 1)
    assert blob_path(coordinator.blobs, blob.sha256).read_bytes() == path.read_bytes()
    assert line.up - blob.size_bytes < len(cuts) * CHUNK_BYTES
    traffic = await traffic_of(coordinator.engine, job_id)
    assert traffic[1]["a"]["up"] == blob.size_bytes  # no byte that the coordinator held came twice


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_cut_download_costs_less_than_a_chunk(coordinator, tmp_path, seed):
    _, _, content = await running_job(coordinator)
    cuts = four_cuts(seed)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
    cache, blob = Cache(tmp_path / "work"), weights_of(task)
    async with cutting(coordinator.port, *cuts) as line, connected(line.address) as transport:
        path = await transport.download(blob, cache, task.job_id, task.round)
    assert path.read_bytes() == content
    assert line.down - blob.size_bytes < len(cuts) * CHUNK_BYTES


@pytest.mark.slow
async def test_a_transfer_that_moves_bytes_is_never_cut(coordinator, tmp_path, monkeypatch, logged):
    """Though it takes longer than anybody waits for a sign of life."""
    monkeypatch.setattr(door, "STALL_S", 0.5)
    job_id, _, _ = await running_job(coordinator)
    async with slow(coordinator.port, bytes_per_s=1.5 * MB) as address, connected(address, patience_s=0.5) as transport:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task)
        await transport.submit(path, blob, job_id, 1)
    assert blob_path(coordinator.blobs, blob.sha256).read_bytes() == path.read_bytes()
    assert [entry for entry in logged if entry["event"] == "coordinator_away"] == []
    traffic = await traffic_of(coordinator.engine, job_id)
    assert traffic[1]["a"]["up"] == blob.size_bytes


@pytest.mark.slow
async def test_an_upload_waits_until_the_connection_before_lets_go(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with connected(coordinator.address) as transport, grpc.aio.insecure_channel(coordinator.address) as before:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task)
        content = path.read_bytes()
        call = FederationStub(before).SubmitUpdate()
        reference = pb.BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes)
        header = pb.UpdateHeader(client="a", job_id=job_id, round=1, blob=reference)
        await call.write(pb.SubmitUpdateRequest(header=header))
        await call.write(pb.SubmitUpdateRequest(chunk=content[:MB]))
        for _ in range(1000):
            if any(file.stat().st_size == MB for file in (tmp_path / "blobs" / "partial").iterdir()):
                break
            await asyncio.sleep(0.02)
        waiting = asyncio.create_task(transport.submit(path, blob, job_id, 1))
        await asyncio.sleep(1)
        assert not waiting.done()
        call.cancel()
        await asyncio.wait_for(waiting, 60)
    assert blob_path(coordinator.blobs, blob.sha256).read_bytes() == content


@pytest.mark.slow
async def test_a_task_may_be_larger_than_grpcs_default_limit(coordinator):
    plan = TrainingPlan((), tuple(Dense(f"{'layer.' * 1000}{i}.weight", (1,)) for i in range(700)))
    await running_job(coordinator, plan)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
    assert task.ByteSize() > 4 * MB
    assert TrainingPlan.from_dict(json.loads(task.plan_json)) == plan


async def test_a_blob_that_the_coordinator_lost_is_no_round_that_is_over(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        blob = weights_of(task)
        blob_path(coordinator.blobs, blob.sha256).unlink()
        with pytest.raises(InvalidExchange, match=f"has lost blob {blob.sha256} of job {job_id}, which version 0"):
            await transport.download(blob, Cache(tmp_path / "work"), job_id, 1)


@pytest.mark.slow
async def test_a_wrong_update_is_rejected_with_the_reason(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task, round="9")
        with pytest.raises(InvalidExchange, match="round"):
            await transport.submit(path, blob, job_id, 1)


async def test_a_closed_round_is_over(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with connected(coordinator.address) as transport:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task)
        await coordinator.engine.people.cancel(job_id)
        with pytest.raises(RoundOver):
            await transport.submit(path, blob, job_id, 1)
        with pytest.raises(RoundOver):
            await transport.download(
                weights_of(task),
                Cache(tmp_path / "work"),
                job_id,
                1,
            )
        request = pb.ReportProgressRequest(client="a", job_id=job_id, round=1, stage="train", step=1, train_loss=0.5)
        answer = await transport.heartbeat(request)
        assert not answer.go_on
        assert answer.reason


@pytest.mark.slow
async def test_registering_waits_for_the_coordinator_and_says_so_once(away, logged):
    async with connected(away.address) as transport:
        waiting = asyncio.create_task(transport.register({"reviews": 12}))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        await away.start()
        await asyncio.wait_for(waiting, 20)
        await transport.next_task(0)
    events = [entry["event"] for entry in logged if str(entry["event"]).startswith("coordinator_")]
    assert events == ["coordinator_away", "coordinator_back"]


async def test_where_one_address_does_not_answer_the_next_is_taken(coordinator, logged):
    with socket.socket() as nobody:  # bound, and does not listen
        nobody.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with cutting(coordinator.port) as line, connected(f"{closed}, {line.address}") as transport:
            await transport.register({"reviews": 12})
            await transport.next_task(0)
            assert line.up > 0
    events = [entry["event"] for entry in logged if str(entry["event"]).startswith("coordinator_")]
    assert events == ["coordinator_away", "coordinator_back"]


@pytest.mark.slow
async def test_a_poll_outlives_a_restart_of_the_coordinator(coordinator):
    async with connected(coordinator.address) as transport:
        await transport.register({"reviews": 12})
        waiting = asyncio.create_task(transport.next_task(30))
        await asyncio.sleep(0.2)
        await coordinator.stop()
        await asyncio.sleep(0.5)
        await coordinator.start()
        job_id, _, _ = await running_job(coordinator)
        task = await asyncio.wait_for(waiting, 20)
        if task is None:  # the old door answered the poll as it closed
            task = await transport.next_task(10)
        assert task.job_id == job_id


@pytest.mark.slow
async def test_other_calls_give_up_when_patience_ends(coordinator, tmp_path):
    job_id, _, _ = await running_job(coordinator)
    async with connected(coordinator.address, patience_s=1.0) as transport:
        task = await take_task(transport)
        path, blob = write_update(tmp_path, task)
        await coordinator.stop()
        with pytest.raises(CoordinatorAway, match="no answer from 127.0.0.1"):
            await asyncio.wait_for(transport.submit(path, blob, job_id, 1), 20)


async def test_what_is_no_coordinator_is_refused(tmp_path):
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with connected(f"127.0.0.1:{port}") as transport:
            with pytest.raises(AgentRefused, match="does not speak this protocol"):
                await transport.register({})
    finally:
        await server.stop(0)


def test_blob_hashes_are_those_of_hashlib(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert hash_file(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
