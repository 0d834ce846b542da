"""Work that is killed before each of its lines in turn, and what it leaves: `python -m tests.killed CASE DIR`.

This program runs in a separate process without threads, because it forks. Each child works in a separate folder and
dies one line later than the child before it. The parent waits for each child and checks its folder. At the end the
program prints how many children died before a child survived.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from client_agent.cache import Cache
from coordinator.store.composed import Copy
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.process import durable
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import ContentFolder
from tests.builders import put_bytes

CONTENT = bytes(range(256)) * 100
BLOB = BlobRef(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
KEY = "update+job-1+3+site-a+00"
WATCHED = ("durable.py", "content_folder.py", "directory_blob_store.py", "composed.py", "partial_file.py", "cache.py")


class Case(NamedTuple):
    begin: Callable[[Path], object]
    work: Callable[[Path], object]  # when repeated, it finishes the interrupted work
    check: Callable[[Path], object]  # after each death, and after the repeated work


def receive(root: Path) -> None:
    with closing(DirectoryBlobStore(root).open_partial(KEY, BLOB)) as partial:
        partial.append(CONTENT)


def adopt(root: Path) -> None:
    with closing(DirectoryBlobStore(root).open_partial(KEY, BLOB)) as partial:
        partial.adopt()


def fetch(root: Path) -> None:
    Cache(root).partial(BLOB).write_bytes(CONTENT)


def adopt_by_agent(root: Path) -> None:
    cache = Cache(root)
    assert cache.find(BLOB) or cache.adopt(BLOB)


def check_blobs(root: Path, *, expected: bool = True) -> None:
    """Every blob is whole; where content had arrived, it is a blob or still a whole partial file."""
    folder = ContentFolder(root)
    for path in folder.blobs.glob("??/*"):
        assert folder.is_sound(path.name), f"{path} does not have the content that its name promises"
    partial = [path.read_bytes() for path in folder.partial.iterdir()]
    assert partial in ([], [CONTENT])
    assert partial or folder.holds(BLOB) or not expected


def compose(root: Path) -> None:
    """A blob that is a part of `CONTENT`, and a byte."""
    blobs, file = DirectoryBlobStore(root), root / "file"
    file.write_bytes(CONTENT[:5000] + b"!")
    assert blobs.is_sound(blobs.put_file(file, copies=[Copy(0, 5000, BLOB, 0, "U8", "U8")]).sha256)


def check_composed(root: Path) -> None:
    check_blobs(root, expected=False)
    blobs = DirectoryBlobStore(root)
    assert all(blobs.is_sound(path.name) for path in (root / "composed").glob("??/*"))


def write_secret(root: Path) -> None:
    with durable.survives_power_cut(root / "key", durable.SECRET) as draft:
        draft.write_text("new")


def check_secret(root: Path) -> None:
    assert (root / "key").read_text() in ("old", "new")


CASES = {
    "store adopts": Case(receive, adopt, check_blobs),
    "store puts": Case(
        DirectoryBlobStore,
        lambda root: put_bytes(DirectoryBlobStore(root), CONTENT),
        lambda root: check_blobs(root, expected=False),
    ),
    "store composes": Case(lambda root: put_bytes(DirectoryBlobStore(root), CONTENT), compose, check_composed),
    "cache adopts": Case(fetch, adopt_by_agent, lambda root: check_blobs(root / "blobs")),
    "secret": Case(lambda root: (root / "key").write_text("old"), write_secret, check_secret),
}


def dies_at(line: int, work: Callable[[], object]) -> bool:
    """Whether the child was killed before its `line`th line of the watched files."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
        return os.WIFSIGNALED(status)
    left = itertools.count(line, -1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        if event == "line" and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        sys.settrace(trace)
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main(case: Case, folder: Path) -> int:
    for line in itertools.count(1):
        root = folder / str(line)
        root.mkdir()
        case.begin(root)
        died = dies_at(line, lambda root=root: case.work(root))  # type: ignore[misc]
        case.check(root)
        case.work(root)
        case.check(root)
        if not died:
            return line - 1
    raise AssertionError("itertools.count never ends")


if __name__ == "__main__":
    print(main(CASES[sys.argv[1]], Path(sys.argv[2])))
