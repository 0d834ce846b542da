"""A real Chromium that looks at the dashboard of a real coordinator. Without them, the tests are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.engine.assembly import assemble
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from tests.browser.chromium import ARGUMENTS, executable
from tests.browser.dashboard import Dashboard
from tests.coordinator.doors.rest.conftest import stack  # noqa: F401  # fixture
from tests.coordinator.doors.rest.stack import Stack


@pytest.fixture
async def page() -> AsyncIterator[Any]:
    """A page of its own; what went wrong in it fails the test."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is missing; `make browser` installs it")
    path = executable()
    if path is None:
        pytest.skip("no Chromium is found on this machine; install one (Debian: apt-get install chromium)")
    faults: list[str] = []

    def heard(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # a refusal is an answer
            faults.append(message.text)

    async with playwright.async_playwright() as tool:
        browser = await tool.chromium.launch(executable_path=path, args=ARGUMENTS)
        context = await browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)  # a busy machine is no fault of the page
        shown = await context.new_page()
        shown.on("console", heard)
        shown.on("pageerror", lambda error: faults.append(str(error)))
        yield shown
        await browser.close()
    assert faults == []


@pytest.fixture
async def dashboard(page: Any, stack: Stack) -> Dashboard:  # noqa: F811
    return Dashboard(page, str(stack.http.base_url))


@asynccontextmanager
async def house(redis_url: str, folder: Path, port: int = 0, **settings: Any) -> AsyncIterator[Stack]:
    """As the fixture `stack`, with other settings, for as long as the block."""
    chosen = CoordinatorSettings(
        redis_url=redis_url, blob_dir=folder / "blobs", rest_port=port, grpc_port=0, aggregator=False, **settings
    )
    engine = assemble(RedisStateStore(redis_url))
    async with (
        serving(chosen, asyncio.Event()) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}") as http,
    ):
        yield Stack(http, engine, DirectoryBlobStore(chosen.blob_dir))
        await engine.close()
