"""Background tasks beside the doors: a task that ends is logged and ends the process, unless it can go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import pytest
from structlog.testing import capture_logs

from coordinator import driver, server
from coordinator.doors.rest.server import bound
from coordinator.engine.assembly import assemble
from coordinator.engine.driver_calls import DriverCalls
from coordinator.engine.lease import DRIVER, Lease
from coordinator.server import CoordinatorError, serving
from coordinator.settings import CoordinatorSettings
from coordinator.store.binding import Binding
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.garbage import Collector
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.leaving import STOP_S
from protos import federation_pb2 as pb
from protos.federation_pb2_grpc import FederationStub

PATIENCE_S = 20


async def until(logged: list[dict[str, object]], event: str) -> dict[str, object]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if rows := [row for row in logged if row["event"] == event]:
                return rows[-1]
            await asyncio.sleep(0.02)


async def test_a_part_that_ends_is_logged_at_once_and_ends_the_coordinator(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(calls: DriverCalls) -> None:
        raise ValueError("no more ticks")

    monkeypatch.setattr(driver, "tick", broken)
    settings = CoordinatorSettings(
        redis_url=redis_url, blob_dir=tmp_path / "blobs", rest_port=0, grpc_port=0, aggregator=False, drain_s=3600
    )
    stopping = asyncio.Event()

    async def serve() -> None:
        async with serving(settings, stopping):
            await asyncio.wait_for(stopping.wait(), PATIENCE_S)
            assert [row["task"] for row in logged if row["event"] == "background_task_ended"] == ["tick"]

    with capture_logs() as logged, pytest.raises(CoordinatorError, match=r"tick \(ValueError: no more ticks\)"):
        await asyncio.wait_for(serve(), PATIENCE_S)  # it is not drained, but ends, to be started anew


async def test_who_drains_for_long_is_not_forced_to_end_meanwhile(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[float] = []
    monkeypatch.setattr(server, "end_within", forced.append)
    given = {"redis_url": redis_url, "blob_dir": tmp_path, "rest_port": 0, "grpc_port": 0, "aggregator": False}
    with capture_logs() as logged:
        settings = CoordinatorSettings(**given, drain_s=0.5)  # type: ignore[arg-type]
        running = asyncio.create_task(server._until_signal(settings))
        await until(logged, "coordinator_started")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, PATIENCE_S)
    assert forced == [0.5 + STOP_S]


async def test_who_is_asked_to_stop_hands_its_lease_over_and_ends_what_is_under_way(
    redis_url: str, tmp_path: Path
) -> None:
    given = {"redis_url": redis_url, "blob_dir": tmp_path, "rest_port": 0, "grpc_port": 0, "aggregator": False}
    settings = CoordinatorSettings(**given, lease_s=300, drain_s=1.0)  # type: ignore[arg-type]
    store, running = RedisStateStore(redis_url), contextlib.AsyncExitStack()
    other = Lease(store, DRIVER, 300)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await stack.enter_async_context(running)
        ports = await running.enter_async_context(serving(settings, asyncio.Event()))
        stub = FederationStub(await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}")))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}"))
        await stub.Register(pb.RegisterRequest(client="a", protocol_version=PROTOCOL_VERSION, software_version="1"))
        poll = asyncio.ensure_future(stub.NextTask(pb.NextTaskRequest(client="a", wait_s=60)))
        keeping = asyncio.create_task(other.keep())
        stack.callback(keeping.cancel)
        await asyncio.sleep(0.3)
        assert (await http.get("/readyz")).json()["checks"]["redis"]["ok"] and not other.is_held

        began = time.monotonic()
        ending = asyncio.create_task(running.aclose())
        async with asyncio.timeout(PATIENCE_S):
            await other.held()
        assert time.monotonic() - began < 0.5  # of a lease of five minutes
        answer = await http.get("/readyz")
        assert answer.status_code == 503 and "another replica" in answer.json()["checks"]["process"]["detail"]
        assert not poll.done()  # the doors are open yet
        assert not (await poll).HasField("task")
        await ending
        assert 1.0 < time.monotonic() - began < PATIENCE_S


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with bound("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.slow
def test_the_process_of_a_coordinator_that_broke_says_why_and_fails(redis_url: str, tmp_path: Path) -> None:
    script = (
        "import sys; from coordinator import driver; from fedgalore_cli.main import main\n"
        "async def broken(calls): raise ValueError('no more ticks')\n"
        "driver.tick = broken; sys.argv[0] = 'fedgalore'; main()"
    )
    flags = ["--redis-url", redis_url, "--blob-dir", tmp_path / "blobs", "--rest-port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-c", script, "coordinator", *flags, "--no-aggregator"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "error: ended by itself: tick (ValueError: no more ticks)" in ended.stderr


async def test_cleaning_survives_whatever_happens(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, blobs = RedisStateStore(redis_url), DirectoryBlobStore(tmp_path)
    turns = iter(range(3))
    enough = asyncio.Event()

    class Broken(Collector):
        async def collect(self, now: float) -> int:
            if next(turns, None) is None:
                enough.set()
            raise ValueError("what nobody thought of")

    monkeypatch.setattr(driver, "CLEAN_S", 0.01)
    engine = assemble(store)
    with capture_logs() as logged:
        task = asyncio.create_task(driver.clean(engine.driver, blobs, Broken(store, blobs, Binding(store, blobs))))
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
        assert not task.done()
        await until(logged, "cleaning_failed")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await engine.close()


async def test_a_look_without_an_answer_leaves_what_was_found(redis_url: str, tmp_path: Path) -> None:
    store, blobs = RedisStateStore(redis_url), DirectoryBlobStore(tmp_path)

    class Away(Collector):
        async def collect(self, now: float) -> int:
            raise OSError("the disk does not answer")

    engine = assemble(store)
    await store.note_refusal("why")
    with capture_logs() as logged:
        task = asyncio.create_task(driver.clean(engine.driver, blobs, Away(store, blobs, Binding(store, blobs))))
        await until(logged, "cleaning_failed")
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert await store.refusal() == "why"
    await engine.close()


async def test_partial_uploads_are_left_alone_while_redis_is_the_wrong_server(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, blobs = RedisStateStore(redis_url), DirectoryBlobStore(tmp_path)
    blobs.bind("another")
    partial = tmp_path / "partial" / "update+job+1+north+00"
    partial.write_bytes(b"half")
    engine = assemble(store)
    with capture_logs() as logged:
        task = asyncio.create_task(driver.clean(engine.driver, blobs, Collector(store, blobs, Binding(store, blobs))))
        row_of_log = await until(logged, "cleaning_failed")
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert "belongs to another Redis" in str(row_of_log["reason"])
    assert partial.exists()
    await engine.close()


async def test_an_aggregator_that_fails_to_start_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(driver, "FIRST_DELAY_S", 0.05)
    with capture_logs() as logged:
        task = asyncio.create_task(driver.keep_aggregator({}))
        assert "cannot be started" in str((await until(logged, "aggregator_ended"))["reason"])
        program.write_text("#!/bin/sh\nexec /bin/cat\n")  # lives until its stdin closes
        program.chmod(0o755)
        await until(logged, "aggregator_started")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
