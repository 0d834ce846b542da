"""The REST door of a coordinator in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from coordinator.engine.assembly import assemble
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from tests.coordinator.doors.rest.stack import Stack


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
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
