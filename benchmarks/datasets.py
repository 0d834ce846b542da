"""The benchmarks' data sets as examples of `fedgalore.data`, with the keys by which they are split over clients.

Raw files are read from one folder (`--data`); the demo's excerpt ships with the project. A data set that is not there
raises `Missing`, so that a benchmark can go on without it.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.demo.sites import EXCERPT
from fedgalore.seeding import derive_seed

Example = dict[str, Any]
VALIDATION_SHARE = 0.1
VALIDATION_MOST = 500


class Missing(Exception):
    """The data set's files are not in the folder."""


@dataclass(frozen=True)
class DataSet:
    """`train` without the `validation` that was cut from it; never a part of `test`."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    num_labels: int

    def keys(self, of: str) -> list[Any]:
        """What a split goes by: each training example's `label` or `domain`."""
        return [example[of] for example in self.train]


def load(name: str, folder: Path, max_train: int | None = None, max_test: int | None = None) -> DataSet:
    """A data set with its validation part cut off; parts that are too large are sampled, with a seed.

    Raises:
        Missing: its files are not there.
        ValueError: there is no data set of this name.
    """
    if name not in _READERS:
        raise ValueError(f"data: there is no data set {name!r}; known: {', '.join(sorted(_READERS))}")
    try:
        rows = list(_READERS[name](folder))
    except FileNotFoundError as error:
        raise Missing(f"{name}: {error.filename} is not there") from error
    names = sorted({label for _, _, label, _ in rows})
    parts: dict[str, list[Example]] = {"train": [], "test": []}
    for split, text, label, domain in rows:
        first, pair = text if isinstance(text, tuple) else (text, None)
        example = {"text": first, "text_pair": pair, "label": names.index(label), "domain": domain}
        parts[split].append({"row": len(parts[split]) + 1, **example})
    train = _sample(parts["train"], None, name)
    held = min(VALIDATION_MOST, int(VALIDATION_SHARE * len(train)))
    return DataSet(
        train=sorted(train[held:][:max_train], key=lambda e: e["row"]),
        validation=train[:held],
        test=_sample(parts["test"], max_test, name),
        num_labels=len(names),
    )


def _sample(examples: list[Example], most: int | None, name: str) -> list[Example]:
    order = np.random.default_rng(derive_seed(0, "benchmark", name)).permutation(len(examples))
    return [examples[index] for index in order[:most]]


Row = tuple[str, str | tuple[str, str], str, str]  # split, text or pair, label, domain


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        yield from file


def _banking77(folder: Path) -> Iterator[Row]:
    for split in ("train", "test"):
        for row in csv.DictReader(_lines(folder / "banking77" / f"{split}.csv.gz")):
            yield split, row["text"], row["category"], ""


def _glue(task: str, text: tuple[str, ...], label: str, test: str = "dev.tsv.gz") -> Callable[[Path], Iterator[Row]]:
    def read(folder: Path) -> Iterator[Row]:
        for split, file in (("train", "train.tsv.gz"), ("test", test)):
            lines = _lines(folder / "glue_subset" / task / file)
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                texts = tuple(row[column] for column in text)
                yield split, texts if len(texts) == 2 else texts[0], row[label], ""

    return read


def _fdu_mtl(folder: Path) -> Iterator[Row]:
    paths = sorted((folder / "fdu_mtl").glob("*.task.*.gz"))
    if not paths:
        raise FileNotFoundError(2, "no such file", str(folder / "fdu_mtl"))
    for path in paths:
        domain, _, split, _ = path.name.split(".")
        for line in _lines(path):
            label, _, text = line.rstrip("\n").partition("\t")
            if text.strip():
                yield split, text, label, domain


def _sentiment(folder: Path) -> Iterator[Row]:
    with EXCERPT.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["split"], row["text"], row["label"], row["domain"]


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "banking77": _banking77,
    "sst2": _glue("SST-2", ("sentence",), "label"),
    "rte": _glue("RTE", ("sentence1", "sentence2"), "label"),
    "mrpc": _glue("MRPC", ("#1 String", "#2 String"), "Quality", "test_labeled.txt.gz"),
    "fdu_mtl": _fdu_mtl,
    "sentiment": _sentiment,
}
