"""Downloads over lines that break: they go on at their last byte, or keep nothing."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from fedgalore.client import AsyncClient, BadDownload, Client, Hooks, Refused, WrongArgument, download
from tests.fedgalore.client.played import Part, played

FILE = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "AGAIN_S", 0.001)


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("job/model.bin")
        info.size = len(FILE)
        tar.addfile(info, io.BytesIO(FILE))
    return buffer.getvalue()


TAR = a_tar()
WHOLE = {"Content-Length": str(len(TAR)), "Accept-Ranges": "bytes", "ETag": '"v1"'}


def rest(start: int, end: int | None = None, **headers: str) -> Part:
    """The bytes from `start` on, as an answer to a range; the line ends at `end`."""
    found = {"Content-Range": f"bytes {start}-{len(TAR) - 1}/{len(TAR)}", "Content-Length": str(len(TAR) - start)}
    return Part(206, {**WHOLE, **found, **headers}, TAR[start:end])


async def test_what_breaks_goes_on_at_its_last_byte(tmp_path: Path) -> None:
    away = Part(503, {"Content-Length": "0"})
    for name in ("sync", "async"):
        seen: list[tuple[int, int | None]] = []
        hooks = Hooks(on_progress=lambda done, total, seen=seen: seen.append((done, total)))  # type: ignore[misc]
        with played(Part(200, WHOLE, TAR[:3000]), away, rest(3000, 7000), rest(7000)) as server:
            if name == "sync":
                with Client(server.url) as client:
                    assert client.model("job-1", tmp_path / name, hooks=hooks) == tmp_path / name
            else:
                async with AsyncClient(server.url) as other:
                    await other.model("job-1", tmp_path / name, hooks=hooks)
        assert (tmp_path / name / "model.bin").read_bytes() == FILE
        assert [each.get("range") for each in server.asked] == [None, "bytes=3000-", "bytes=3000-", "bytes=7000-"]
        assert {each.get("if-range") for each in server.asked[1:]} == {'"v1"'}
        assert seen[-1] == (len(TAR), len(TAR))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_a_download_that_is_cancelled_stops_no_other_with_the_same_hooks(tmp_path: Path) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    hooks = Hooks(on_progress=lambda *_: loop.call_soon_threadsafe(begun.set))  # type: ignore[func-returns-value]
    with played(Part(200, WHOLE, TAR[:3000]), Part(503, {"Content-Length": "0"})) as server:
        async with AsyncClient(server.url) as client:
            fetching = asyncio.create_task(client.model("job-1", tmp_path / "model", hooks=hooks))
            await begun.wait()
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
    assert not list(tmp_path.iterdir())
    with played(Part(200, WHOLE, TAR)) as server:
        async with AsyncClient(server.url) as client:
            await client.model("job-1", tmp_path / "model", hooks=hooks)
            hooks.stopping.set()
            with pytest.raises(BadDownload, match="was stopped"):
                await client.model("job-1", tmp_path / "other", hooks=hooks)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([Part(200, {"Content-Length": str(len(TAR))}, TAR[:3000])], "broke after 3.0 kB of 20.5 kB"),
        ([Part(200, WHOLE, TAR[:3000]), Part(200, WHOLE, TAR)], "has changed meanwhile"),
        ([Part(200, WHOLE, TAR[:3000]), rest(2000)], "has changed meanwhile"),
        ([Part(200, WHOLE, TAR[:3000]), rest(3000, ETag='"v2"')], "has changed meanwhile"),
        ([Part(200, {"Content-Length": "300"}, TAR[:300])], "not a whole tar"),
    ],
)
def test_what_is_not_whole_is_not_kept(parts: list[Part], words: str, tmp_path: Path) -> None:
    with played(*parts) as server, Client(server.url) as client, pytest.raises(BadDownload, match=words):
        client.adapter("job-1", tmp_path / "adapter", rank=2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with played(Part(200, WHOLE, TAR)) as server, Client(server.url) as client:
        with pytest.raises(WrongArgument, match="exists and is not an empty folder") as refused:
            client.model("job-1", tmp_path)
        assert refused.value.fields[0].field == "to"
        assert server.asked == []


def test_a_problem_is_no_model(tmp_path: Path) -> None:
    problem = b'{"detail": "version: 7 does not exist yet", "code": "version_not_found"}'
    answer = Part(404, {"Content-Type": "application/problem+json", "Content-Length": str(len(problem))}, problem)
    with played(answer) as server, Client(server.url) as client, pytest.raises(Refused) as refused:
        client.model("job-1", tmp_path / "model", version=7)
    assert (refused.value.status, refused.value.code) == (404, "version_not_found")
