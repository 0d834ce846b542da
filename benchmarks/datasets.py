"""The benchmarks' data sets as `fedgalore.data.examples` has them, with the keys by which they are split over clients.

Raw files are read from one folder (`--data`); the demo's excerpt ships with the project. A data set that is not there
raises `Missing`, so that a benchmark can go on without it.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedgalore.maths.seeding import derive_seed
from fedgalore_cli.demo.sites import EXCERPT

Example = dict[str, Any]
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2  # of data sets that come without a test part


class Missing(Exception):
    """The data set's files are not in the folder."""


@dataclass(frozen=True)
class DataSet:
    """`train` without the `validation` that was cut from it; `num_labels` is None where answers are texts."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    num_labels: int | None

    def keys(self, of: str) -> list[Any]:
        """What a split goes by: each training example's `label` or `domain`."""
        return [example[of] for example in self.train]


def load(
    name: str,
    folder: Path,
    cache: Path,
    max_train: int | None = None,
    max_validation: int = 500,
    max_test: int | None = None,
) -> DataSet:
    """A data set with its validation part cut off; parts that are too large are sampled, with a seed.

    `cache` is where images are unpacked.

    Raises:
        Missing: its files are not there.
        ValueError: there is no data set of this name.
    """
    if name not in _READERS:
        raise ValueError(f"data: there is no data set {name!r}; known: {', '.join(sorted(_READERS))}")
    try:
        rows = list(_READERS[name](folder, cache))
    except FileNotFoundError as error:
        raise Missing(f"data set {name} lacks {error.filename}; name the folder of the data sets by --data") from error
    labels = sorted({row["label"] for _, row in rows if "label" in row})
    parts: dict[str, list[Example]] = {"train": [], "test": []}
    for split, row in rows:
        label = {"label": labels.index(row["label"])} if labels else {}
        parts[split].append({"row": len(parts[split]) + 1, **row, **label})
    train = _sample(parts["train"], None, name)
    held = min(max_validation, int(VALIDATION_SHARE * len(train)))
    return DataSet(
        train=sorted(train[held:][:max_train], key=lambda e: e["row"]),
        validation=train[:held],
        test=_sample(parts["test"], max_test, name),
        num_labels=len(labels) or None,
    )


def _sample(examples: list[Example], most: int | None, name: str) -> list[Example]:
    order = np.random.default_rng(derive_seed(0, "benchmark", name)).permutation(len(examples))
    return [examples[index] for index in order[:most]]


Rows = Iterator[tuple[str, Example]]  # split, and an example without its row; labels still by name


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        yield from file


def _text(text: str, label: str, pair: str | None = None, domain: str = "") -> Example:
    return {"text": text, "text_pair": pair, "label": label, "domain": domain}


def _banking77(folder: Path, cache: Path) -> Rows:
    for split in ("train", "test"):
        for row in csv.DictReader(_lines(folder / "banking77" / f"{split}.csv.gz")):
            yield split, _text(row["text"], row["category"])


def _glue(
    task: str, text: tuple[str, ...], label: str, test: str = "dev.tsv.gz", header: tuple[str, ...] | None = None
) -> Callable[[Path, Path], Rows]:
    def read(folder: Path, cache: Path) -> Rows:
        for split, file in (("train", "train.tsv.gz"), ("test", test)):
            lines = _lines(folder / "glue_subset" / task / file)
            for row in csv.DictReader(lines, header, delimiter="\t", quoting=csv.QUOTE_NONE):
                yield split, _text(row[text[0]], row[label], row[text[1]] if len(text) == 2 else None)

    return read


def _fdu_mtl(folder: Path, cache: Path) -> Rows:
    paths = sorted((folder / "fdu_mtl").glob("*.task.*.gz"))
    if not paths:
        raise FileNotFoundError(2, "no such file", str(folder / "fdu_mtl"))
    for path in paths:
        domain, _, split, _ = path.name.split(".")
        for line in _lines(path):
            label, _, text = line.rstrip("\n").partition("\t")
            if text.strip():
                yield split, _text(text, label, domain=domain)


def _sentiment(folder: Path, cache: Path) -> Rows:
    with EXCERPT.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["split"], _text(row["text"], row["label"], domain=row["domain"])


def _gsm8k(folder: Path, cache: Path) -> Rows:
    for split in ("train", "test"):
        for line in _lines(folder / "gsm8k" / f"{split}.jsonl.gz"):
            row = json.loads(line)
            yield split, {"prompt": f"{row['question']}\n", "completion": row["answer"], "domain": ""}


def _math(folder: Path, cache: Path) -> Rows:
    """Short problems of four sources. A problem whose rationale does not end in the answer is left out."""
    for source in ("AddSub", "MultiArith", "SingleEq", "SVAMP"):
        rows = json.loads("".join(_lines(folder / "math_word_domains" / f"{source}.json.gz")))
        kept = [row for row in rows if _ends_in(row["output"], row["answer"])]
        for split, row in _with_test_part(kept, source):
            prompt, completion = f"{row['instruction'].strip()}\n", row["output"].strip()
            yield split, {"prompt": prompt, "completion": completion, "domain": source}


def _with_test_part(items: Sequence[Any], name: str) -> Iterator[tuple[str, Any]]:
    chosen = np.random.default_rng(derive_seed(0, "test part", name)).permutation(len(items))
    test = set(chosen[: int(TEST_SHARE * len(items))].tolist())
    for index, item in enumerate(items):
        yield "test" if index in test else "train", item


def _ends_in(rationale: str, answer: str) -> bool:
    words = rationale.replace(",", "").replace("$", " ").split()
    try:
        return bool(words) and float(words[-1].rstrip(".%")) == float(answer)
    except ValueError:
        return False


def _pacs(folder: Path, cache: Path) -> Rows:
    """Images of four styles, unpacked into `cache` once."""
    unpacked = cache / "pacs"
    if not unpacked.is_dir():
        draft = cache / f"pacs.{os.getpid()}"
        for path in sorted((folder / "pacs").glob("*.tar")):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    if file is not None:
                        label, name = Path(member.name).parts[-2:]
                        (draft / path.stem / label).mkdir(parents=True, exist_ok=True)
                        (draft / path.stem / label / name).write_bytes(file.read())
        if not draft.is_dir():
            raise FileNotFoundError(2, "no such file", str(folder / "pacs" / "*.tar"))
        try:
            draft.replace(unpacked)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    for domain in sorted(unpacked.iterdir()):
        for split, path in _with_test_part(sorted(domain.glob("*/*")), domain.name):
            yield split, {"image": str(path), "label": path.parent.name, "domain": domain.name}


_READERS: dict[str, Callable[[Path, Path], Rows]] = {
    "banking77": _banking77,
    "sst2": _glue("SST-2", ("sentence",), "label"),
    "cola": _glue("CoLA", ("sentence",), "label", header=("source", "label", "mark", "sentence")),
    "rte": _glue("RTE", ("sentence1", "sentence2"), "label"),
    "mrpc": _glue("MRPC", ("#1 String", "#2 String"), "Quality", "test_labeled.txt.gz"),
    "fdu_mtl": _fdu_mtl,
    "sentiment": _sentiment,
    "gsm8k": _gsm8k,
    "math": _math,
    "pacs": _pacs,
}
