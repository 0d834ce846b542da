"""Tensors of files, one in memory at a time; and the file of the version that the agent holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from fedgalore.process import durable
from fedgalore.spec.plan import TensorSpec
from protos.codec import CodecError, TensorFile, encode_header, open_update

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BLOCK_BYTES = 2**18  # written at once


class FileTensors(Mapping[str, Tensor]):
    """The tensors of a file, each copied when it is asked for.

    Copies, not views: the file may be deleted or changed, and products of differently aligned memory may round
    differently. The pages of the file are the system's, which takes them back where memory is short.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        return torch.from_numpy(self._file.tensor(name)).clone()

    def __contains__(self, name: object) -> bool:
        return name in self._file.header.tensors

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._file.names if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class VersionFile(FileTensors):
    """The global weights of one version, which go on to the next one in place: only this process uses the file.

    A note beside it says which version that is. There is none while the file changes, so nobody takes what a killed
    process left for a version. After a restart of the machine notes count for nothing: what had reached the disk is
    unknown.
    """

    def __init__(self, path: Path, file: TensorFile, names: Iterable[str]) -> None:
        super().__init__(file)
        self._path, self._names = path, set(names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @classmethod
    def written(cls, path: Path, specs: Mapping[str, TensorSpec], tensors: Iterable[tuple[str, Tensor]]) -> Self:
        """A new file of these tensors, with room for all of `specs`.

        Raises:
            OSError: the disk refuses.
        """
        forget(path)
        header = encode_header(specs, {})
        size = len(header) + sum(spec.size_bytes for spec in specs.values())
        with path.open("xb") as file:
            file.write(header)
            file.flush()
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # so that a full disk is an error now, and not in a later round
                os.posix_fallocate(file.fileno(), 0, size)
        held = cls(path, open_update(path), ())
        held.replace(tensors)
        return held

    @classmethod
    def of_checkpoint(cls, path: Path, checkpoint: Path, specs: Mapping[str, TensorSpec]) -> Self:
        """The tensors of a checkpoint, whose own file is gone afterwards: it would take as much room again.

        Raises:
            CodecError: it is no file of tensors, or lacks some.
            OSError: the disk refuses.
        """
        file = open_update(checkpoint)
        if missing := [name for name in specs if "/" not in name and name not in file.names]:
            raise CodecError(f"the checkpoint has no tensor {missing[0]!r}")
        if set(file.names) != set(specs):  # that of version 0, which has no last step
            held = cls.written(path, specs, FileTensors(file).items())
            checkpoint.unlink()
            return held
        forget(path)
        checkpoint.replace(path)
        return cls(path, open_update(path), file.names)

    @classmethod
    def noted(cls, path: Path, specs: Mapping[str, TensorSpec]) -> tuple[Self, str, int] | None:
        """What an earlier process left, with the version's id and the number of its unproven steps; None: nothing."""
        try:
            note = json.loads(_note(path).read_bytes())
            file = open_update(path)
            if note["boot"] is None or note["boot"] != _boot_id() or set(file.names) != set(specs):
                return None
            return cls(path, file, note["names"]), str(note["id"]), int(note["unproven_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, id: str, unproven_steps: int) -> None:
        """Says which version the file holds, until it changes."""
        said = {"id": id, "unproven_steps": unproven_steps, "boot": _boot_id(), "names": sorted(self._names)}
        with durable.appears_whole(_note(self._path)) as draft:
            draft.write_text(json.dumps(said))

    def replace(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Writes tensors in their places. What raises leaves a file without a note, to be forgotten.

        Raises:
            OSError: the disk refuses.
        """
        _note(self._path).unlink(missing_ok=True)
        header = self._file.header
        with self._path.open("r+b", buffering=0) as file:
            for name, tensor in tensors:
                entry = header.tensors[name]
                data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
                if len(data) != entry.spec.size_bytes:
                    raise CodecError(f"tensor {name!r} has {len(data)} bytes; its place has {entry.spec.size_bytes}")
                file.seek(header.data_start + entry.start)
                for start in range(0, len(data), _BLOCK_BYTES):
                    file.write(data[start : start + _BLOCK_BYTES])
                self._names.add(name)


def forget(path: Path) -> None:
    """Deletes a version's file and its note."""
    _note(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _boot_id() -> str | None:
    """Of this run of the machine; None where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
