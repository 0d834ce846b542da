"""The control groups that a process is in, of version 1 or 2, and the files by which the kernel tells of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' control groups that limit `cpu` or `memory`, up to the root of each hierarchy.

    Inside a container the path is often that of the host, and the folder lies at the root of the mount.
    """
    mounts = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not path:
            continue
        if not controllers:
            mounted = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            mounted = [mounts / controllers, mounts / controller]
        else:
            continue
        inside = Path(path.strip("/"))
        yield from (mount / part for mount in mounted for part in (inside, *inside.parents))


def read(file: Path) -> str:
    """What the file says; nothing where it is not there, or is another user's."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
