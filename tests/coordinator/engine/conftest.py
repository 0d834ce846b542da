"""A federation on the test's Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coordinator.engine.assembly import Engine
from tests.coordinator.engine.federation import Federation


@pytest.fixture
async def federation(redis_url: str) -> AsyncIterator[Federation]:
    federation = Federation(redis_url)
    yield federation
    for engine in federation.engines:
        await engine.close()


@pytest.fixture
def engine(federation: Federation) -> Engine:
    return federation.engine
