"""Which agent this is, so that no two machines serve under one name without noticing."""

from __future__ import annotations

import secrets
from pathlib import Path

INSTANCE_FILE = "instance"


def instance_of(work_dir: Path) -> str:
    """The work folder's id and this process's, `FOLDER/PROCESS`.

    The folder's id outlives restarts. A copy of the folder gets another: the file notes its own inode.

    Raises:
        OSError: the folder cannot be written.
    """
    return f"{_folder_id(work_dir / INSTANCE_FILE)}/{secrets.token_hex(8)}"


def _folder_id(path: Path) -> str:
    try:
        identity, inode = path.read_text(encoding="ascii").split()
        if int(inode) == path.stat().st_ino:
            return identity
    except (FileNotFoundError, ValueError):  # a first start, or one that was cut short
        pass
    identity = secrets.token_hex(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.write_text(f"{identity} {path.stat().st_ino}\n", encoding="ascii")
    return identity
