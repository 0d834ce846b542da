"""A page of a process' metrics for Prometheus, where the process has no door of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics, start_http_server

from fedgalore.process.settings import SettingsError
from fedgalore.version import PROTOCOL_VERSION, __version__

# When a counter began is no news to Prometheus, and a series more for each.
disable_created_metrics()  # type: ignore[no-untyped-call]


def registry() -> CollectorRegistry:
    """With what every process tells: memory, processor time, open files, and what runs."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    labels = ["version", "protocol_version"]
    build = Gauge("fedgalore_build_info", "Always 1; what runs", labels, registry=made)
    build.labels(__version__, str(PROTOCOL_VERSION)).set(1)
    return made


@contextmanager
def served(shown: CollectorRegistry, host: str, port: int | None, setting: str) -> Iterator[int | None]:
    """Answers at `host:port` as long as the block, by a thread; without a port, nothing. Yields the port.

    Args:
        port: 0 for any that is free.
        setting: by which the port is given, for the error.

    Raises:
        SettingsError: the address is none of this machine, or is taken.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, shown)
    except OSError as error:
        raise SettingsError(
            f"{setting}: metrics cannot be served at {host}:{port} ({error}); choose another port, 0 for any"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
