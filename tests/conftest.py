"""Real parts for the tests: one Redis-protocol server per test process, emptied before each test.

The end of a run says how many tests its `-m` left out, and which command runs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
import structlog

from fedgalore.process.redis_server import RedisServer
from tests.s3_server import S3Server
from tests.s3_server import running as s3_server_running

_CONSOLE = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # the other takes seconds
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _CONSOLE])

TIERS = {
    "browser": "make browser",
    "bucket": "make bucket",
    "fuzz": "make fuzz",
    "chaos": "make chaos",
    "proof": "make proofs",
    "slow": "make test",
}
LEFT_OUT = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Shared by the tests of one process: never stop it. A test that stops a server starts a separate server."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """A server without any keys."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Shared by the tests of one process, which take prefixes of their own in its bucket `blobs`."""
    for name in ("obstore", "moto"):
        pytest.importorskip(name, reason="`make bucket` installs it")
    with s3_server_running() as server, pytest.MonkeyPatch.context() as patch:
        for variable, value in server.environment.items():
            patch.setenv(variable, value)
        server.make_bucket("blobs")
        yield server


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Counts each test under its slowest tier. What `-k` leaves out is the caller's choice and not counted."""
    for item in items:
        tier = next((name for name in TIERS if item.get_closest_marker(name)), None)
        if tier is not None and not item.config.option.keyword:
            item.config.stash[LEFT_OUT][tier] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of xdist: each process collects all tests
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if hasattr(node, "workeroutput"):  # a killed process leaves no output
        node.config.stash[LEFT_OUT] = Counter(node.workeroutput["left_out"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    left_out = terminalreporter.config.stash[LEFT_OUT]
    counts = [f"{count} {tier} (`{TIERS[tier]}` runs them)" for tier, count in sorted(left_out.items())]
    if counts:
        terminalreporter.write_line(f"left out: {', '.join(counts)}")
