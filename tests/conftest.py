"""Real parts for the tests: one Redis-protocol server a test process, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from fedgalore.process.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Shared by the tests of one process: never stop it. A test that does takes a server of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """A server without any keys."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
