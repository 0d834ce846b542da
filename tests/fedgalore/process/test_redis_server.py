"""The embedded server: ready when it says so, its data safe, its end orderly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from fedgalore.process.redis_server import RedisServer, RedisServerError, free_port


@pytest.mark.slow
def test_data_survives_an_orderly_end_and_a_crash(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "state")
    try:
        for end in (server.stop, server.kill):
            server.start()
            with redis.Redis.from_url(server.url) as client:
                client.incr("starts")
                assert client.config_get("appendfsync")["appendfsync"] == "always"
            end()
        server.start()  # on the port of the first start
        with redis.Redis.from_url(server.url) as client:
            assert client.get("starts") == b"2"
    finally:
        server.stop()
    server.stop()  # once more does no harm
    with pytest.raises(RedisServerError, match="does not run"):
        _ = server.pid


def test_a_port_that_is_taken_is_named_in_the_words_of_the_server(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "first") as first, pytest.raises(RedisServerError, match=rf"(?is){first.port}.*in use"):
        RedisServer(tmp_path / "second", port=first.port).start()


@pytest.mark.slow
def test_in_the_foreground_it_ends_with_its_signal(tmp_path: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "fedgalore.process.redis_server",
        "--dir",
        str(tmp_path / "d"),
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, redis.Redis(port=port) as client:
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                try:
                    assert client.info("server")["process_id"] == process.pid
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            else:
                pytest.fail("the server did not come up")
        finally:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
