"""Each request to the people's door reads a job once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from coordinator import driver
from coordinator.engine.assembly import assemble
from coordinator.engine.driver_calls import DriverCalls
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from tests.coordinator.doors.loads import counted
from tests.coordinator.doors.rest.stack import JOBS, Stack


@pytest.fixture
async def still(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    """A coordinator that does not tick, so that only requests read jobs."""

    async def never(calls: DriverCalls) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(driver, "tick", never)
    monkeypatch.setattr(driver, "clean", lambda *_: never(_[0]))
    settings = CoordinatorSettings(
        redis_url=redis_url, blob_dir=tmp_path / "blobs", rest_port=0, grpc_port=0, aggregator=False
    )
    engine = assemble(RedisStateStore(redis_url))
    async with (
        serving(settings, asyncio.Event()) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}") as http,
    ):
        yield Stack(http, engine, DirectoryBlobStore(settings.blob_dir))
        await engine.close()


async def test_looking_at_a_job(still: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await still.completed(tmp_path)
    # The stream of a job that has ended looks once more before it ends too.
    for path, expected in {"": 1, "/rounds": 1, "/rounds/1": 1, "/model": 1, "/events": 2}.items():
        with counted(monkeypatch) as loads:
            assert (await still.http.get(f"{JOBS}/{job.id}{path}")).status_code == 200
        assert len(loads) == expected, path
    with counted(monkeypatch) as loads:
        assert (await still.http.get("/metrics")).status_code == 200
    assert not loads


async def test_commands(still: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await still.running(tmp_path)
    for command in ("pause", "pause", "resume", "cancel"):
        with counted(monkeypatch) as loads:
            assert (await still.http.post(f"{JOBS}/{job.id}/{command}")).status_code == 200
        assert len(loads) == 1, command
