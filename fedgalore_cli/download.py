"""Unpacks the tar of a model or an adapter from the coordinator. Nothing in the tar is trusted."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from fedgalore.process import durable


class UnsafeArchive(ValueError):
    """A tar that holds anything but plain files of a single folder."""


def unpack(chunks: Iterator[bytes], to: Path) -> None:
    """Writes the files of a streamed tar into the folder `to`, without the tar's top folder.

    `to` appears whole or not at all.

    Raises:
        FileExistsError: `to` exists and is not an empty folder.
        UnsafeArchive: the tar holds a link, a device or a path that leaves the folder, or it is cut off.
        OSError: the disk refuses.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise FileExistsError(f"{to} exists and is not an empty folder")
    to.parent.mkdir(parents=True, exist_ok=True)
    with durable.folder_appears_whole(to) as draft:
        _unpack(chunks, draft)


def _unpack(chunks: Iterator[bytes], folder: Path) -> None:
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Reader(chunks)), mode="r|") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                content = tar.extractfile(member) if member.isreg() else None
                if path.is_absolute() or ".." in path.parts or (content is None and not member.isdir()):
                    raise UnsafeArchive(
                        f"the archive holds {member.name!r}, which is not a plain file inside its folder"
                    )
                target = folder.joinpath(*path.parts[1:])
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if target == folder:
                    raise UnsafeArchive(f"the archive holds {member.name!r} outside of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file, 2**20)
    except tarfile.TarError as error:
        raise UnsafeArchive(f"the download is not a whole tar ({error})") from error


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
