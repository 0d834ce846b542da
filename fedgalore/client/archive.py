"""Unpacks the tar of a model or an adapter from the coordinator. Nothing in the tar is trusted."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from fedgalore.client.errors import BadDownload, WrongArgument
from fedgalore.process import durable


def unpack(chunks: Iterator[bytes], to: Path) -> None:
    """Writes the files of a streamed tar into the folder `to`, without the tar's top folder.

    `to` appears whole or not at all. All chunks are taken, also what follows the tar's end.

    Raises:
        WrongArgument: `to` exists and is not an empty folder, or the disk refuses.
        BadDownload: the tar holds a link, a device or a path that leaves the folder, or it is cut off.
    """
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise WrongArgument("to", f"{to} exists and is not an empty folder; name another folder")
        to.parent.mkdir(parents=True, exist_ok=True)
        with durable.folder_appears_whole(to) as draft:
            _unpack(chunks, draft)
            for _ in chunks:
                pass
    except OSError as error:
        raise WrongArgument("to", f"{to}: {error}; nothing was kept, so try again") from error


def _unpack(chunks: Iterator[bytes], folder: Path) -> None:
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Reader(chunks)), mode="r|") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                content = tar.extractfile(member) if member.isreg() else None
                if path.is_absolute() or ".." in path.parts or (content is None and not member.isdir()):
                    raise BadDownload(f"the archive holds {member.name!r}, which is not a plain file inside its folder")
                target = folder.joinpath(*path.parts[1:])
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if target == folder:
                    raise BadDownload(f"the archive holds {member.name!r} outside of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file, 2**20)
    except tarfile.TarError as error:
        raise BadDownload(f"the download is not a whole tar ({error}); nothing was kept, so try again") from error


class _Reader:
    """The part of a file object that tarfile needs, over chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")  # a view, because tarfile asks for small pieces of large chunks

    def read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
