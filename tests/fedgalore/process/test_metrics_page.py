"""The page of a process' metrics."""

from __future__ import annotations

import socket
from urllib.request import urlopen

import pytest

from fedgalore.process.metrics_page import registry, served
from fedgalore.process.settings import SettingsError


def test_it_is_there_as_long_as_the_block() -> None:
    with served(registry(), "127.0.0.1", 0, "metrics_port") as port:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            assert b"fedgalore_build_info{" in page.read()
        refused = pytest.raises(
            SettingsError, match=r"metrics_port: metrics cannot be served at .* choose another port"
        )
        with refused, served(registry(), "127.0.0.1", port, "metrics_port"):
            pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_without_a_port_there_is_none() -> None:
    with served(registry(), "127.0.0.1", None, "metrics_port") as port:
        assert port is None
