"""What a sweep has done already: a file for each run, so that a sweep that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgalore.process.durable import appears_whole

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.simulation import Site
    from fedgalore.spec.job import JobSpec


@dataclass(frozen=True)
class Done:
    """A run that has ended: its setting and seed, what it measured, bytes, seconds, and the rows of all rounds."""

    setting: Mapping[str, Any]
    seed: int
    measured: Mapping[str, float]
    up_bytes: int
    seconds: float
    metrics: Sequence[Mapping[str, Any]]


class Runs:
    """Runs by what they depend on: the job with all defaults, the data, the files of the model, this software."""

    def __init__(self, folder: Path, sites: Iterable[Site], held_out: Sequence[Example]) -> None:
        self._folder = folder / "runs"
        self._folder.mkdir(parents=True, exist_ok=True)
        data = hashlib.sha256()
        for site in sites:
            data.update(repr((site.name, *map(len, (site.train, site.test)))).encode())
            _add(data, (*site.train, *site.test))
        _add(data, held_out)
        self._data = data.hexdigest()

    def key(self, spec: JobSpec) -> str:
        from fedgalore.version import __version__

        files = sorted(Path(spec.model.source).expanduser().glob("*"))
        model = [(path.name, *_look(path)) for path in files]
        document = [spec.model_dump(mode="json"), self._data, model, __version__]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def find(self, key: str) -> Done | None:
        """A run that has ended; None where it has not, or where its file cannot be read."""
        try:
            return Done(**json.loads(self._path(key).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, key: str, done: Done) -> None:
        """Writes a run down."""
        with appears_whole(self._path(key)) as draft:
            draft.write_text(json.dumps(vars(done), allow_nan=False))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _add(data: Any, rows: Iterable[Example]) -> None:
    for row in rows:
        data.update(repr(sorted(row.items())).encode())
        if "image" in row:  # the file's path
            data.update(repr(_look(Path(row["image"]))).encode())


def _look(path: Path) -> tuple[int, int]:
    """A file's size, and when it was changed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
