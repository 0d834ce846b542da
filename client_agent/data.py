"""The site's data sets, read once at the start: an agent that cannot serve its data says so before it registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client_agent.settings import DataSet
from fedgalore.data.examples import Example, read_examples


@dataclass(frozen=True)
class Split:
    """Examples with the file they come from, for messages."""

    path: Path
    examples: list[Example]


@dataclass(frozen=True)
class LocalData:
    """One data set of the site."""

    train: Split
    test: Split | None


def read_all(data: Mapping[str, DataSet]) -> dict[str, LocalData]:
    """Reads and checks every split.

    Raises:
        DataError: with file, row, column and remedy.
    """
    return {
        name: LocalData(_read(item, item.train), _read(item, item.test) if item.test else None)
        for name, item in data.items()
    }


def _read(item: DataSet, path: Path) -> Split:
    return Split(path, read_examples(item.columns(path)))
