"""Large downloads past the coordinator: from where the site allows it, and through the coordinator where that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client_agent.cache import Cache
from client_agent.errors import InvalidExchange
from client_agent.transport import Transport
from coordinator.doors.grpc import server as grpc_server
from coordinator.doors.grpc import service
from tests.client_agent.conftest import Coordinator
from tests.client_agent.test_transport import MB, running_job, take_task, weights_of
from tests.looking import traffic_of

HOST = "127.0.0.1"


class Storage:
    """An HTTP server that gives one file from any offset on, or fails as it is told."""

    def __init__(self) -> None:
        self.content = b""
        self.status = 206
        self.most_bytes = 2**40  # after which a line breaks
        self.asked: list[str] = []  # ranges
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers["Range"]
                storage.asked.append(asked)
                offset = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(storage.status)
                self.send_header("Content-Length", str(len(storage.content) - offset))
                self.send_header("Content-Range", f"bytes {offset}-{len(storage.content) - 1}/{len(storage.content)}")
                self.end_headers()
                self.wfile.write(storage.content[offset:][: storage.most_bytes])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server.server_port}/blob"


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage()
    thread = threading.Thread(target=storage.server.serve_forever)
    thread.start()
    yield storage
    storage.server.shutdown()
    thread.join()
    storage.server.server_close()


@pytest.fixture
async def direct(away: Coordinator, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    """A coordinator whose blobs of some size lie in the storage as well."""
    monkeypatch.setattr(service, "DIRECT_BYTES", MB)
    monkeypatch.setattr(away.blobs, "url", lambda sha256, valid_s: storage.url)
    away.server = await grpc_server.serve(
        away.engine.agents, away.blobs, away.doorkeeper, away.trail, HOST, away.port, direct_downloads=True
    )
    return away


async def fetched(coordinator: Coordinator, folder: Path, *hosts: str, begun: bytes = b"") -> tuple[bytes, int]:
    """What the agent has of the job's weights, and the bytes that are counted for it."""
    transport = Transport(coordinator.address, "a", 20.0, direct_hosts=hosts)
    try:
        task = await take_task(transport)
        cache, blob = Cache(folder / "work"), weights_of(task)
        cache.partial(blob).write_bytes(begun)
        path = await transport.download(blob, cache, task.job_id, task.round)
        traffic = await traffic_of(coordinator.engine, task.job_id)
        return path.read_bytes(), traffic[task.round]["a"]["down"]
    finally:
        await transport.close()


@pytest.mark.parametrize("begun", [0, 2 * MB])
async def test_a_large_blob_comes_from_the_storage(
    direct: Coordinator, storage: Storage, tmp_path: Path, begun: int
) -> None:
    _, _, content = await running_job(direct)
    storage.content = content
    assert await fetched(direct, tmp_path, HOST, begun=content[:begun]) == (content, len(content) - begun)
    assert storage.asked == [f"bytes={begun}-"]


async def test_a_host_is_the_same_in_capitals(direct: Coordinator, storage: Storage, tmp_path: Path) -> None:
    _, _, content = await running_job(direct)
    storage.content = content
    url = storage.url.replace(HOST, "localhost")
    direct.blobs.url = lambda sha256, valid_s: url  # type: ignore[method-assign]
    assert (await fetched(direct, tmp_path, "LocalHost"))[0] == content
    assert len(storage.asked) == 1


@pytest.mark.parametrize("hosts", [(), ("bucket.example",)])
async def test_a_site_that_does_not_name_the_host_is_served_by_the_coordinator(
    direct: Coordinator, storage: Storage, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    _, _, content = await running_job(direct)
    storage.content = b"x" * len(content)
    assert (await fetched(direct, tmp_path, *hosts))[0] == content
    assert storage.asked == []


@pytest.mark.parametrize("fault", ["refused", "gone", "cut", "other content", "ignores ranges"])
async def test_where_the_storage_fails_the_rest_comes_through_the_coordinator(
    direct: Coordinator, storage: Storage, tmp_path: Path, fault: str, logged: list[dict[str, Any]]
) -> None:
    _, _, content = await running_job(direct)
    storage.content = content
    begun = content[:MB]
    match fault:
        case "refused":
            storage.status = 403
        case "gone":
            direct.blobs.url = lambda sha256, valid_s: "http://127.0.0.1:9/blob"  # type: ignore[method-assign]
        case "cut":
            storage.most_bytes = MB
        case "other content":
            storage.content = b"x" * len(content)
        case _:
            storage.status = 200
    assert (await fetched(direct, tmp_path, HOST, begun=begun))[0] == content
    assert len(storage.asked) == (fault != "gone")
    assert [entry["event"] for entry in logged].count("direct_download_failed") == 1
    assert "coordinator_away" not in [entry["event"] for entry in logged] or fault == "other content"


async def test_a_coordinator_that_does_not_offer_it_sends_all(
    coordinator: Coordinator, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator.blobs, "url", lambda sha256, valid_s: storage.url)
    monkeypatch.setattr(service, "DIRECT_BYTES", MB)
    _, _, content = await running_job(coordinator)
    assert (await fetched(coordinator, tmp_path, HOST))[0] == content
    assert storage.asked == []


async def test_a_url_that_nobody_asked_for_ends_the_download(
    direct: Coordinator, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def offered(*_: object) -> str:
        return storage.url

    await running_job(direct)
    monkeypatch.setattr(service.Federation, "_url", offered)
    with pytest.raises(InvalidExchange, match="URL that nobody asked for"):
        await fetched(direct, tmp_path)
    assert storage.asked == []
