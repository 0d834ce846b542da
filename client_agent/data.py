"""The site's data sets, read once at the start. An agent that cannot read its data ends before it registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client_agent.policy import Holdings
from client_agent.settings import DataSet
from fedgalore.data.examples import Example, read_examples
from fedgalore.data.values import as_list, key
from fedgalore.spec.job import JobSpec


@dataclass(frozen=True)
class LocalSplit:
    """Examples with the file that they come from, which messages name."""

    path: Path
    examples: Sequence[Example]


@dataclass(frozen=True)
class LocalData:
    """A data set of the site. `test` is None where the site has no test split."""

    train: LocalSplit
    test: LocalSplit | None

    def held_out(self, spec: JobSpec) -> LocalSplit | None:
        """What the job's models are evaluated on, if this site has it."""
        return self.train if spec.evaluation.split == "train" else self.test

    def holdings(self, spec: JobSpec) -> Holdings:
        """How many examples that are."""
        held_out, examples = self.held_out(spec), self.train.examples
        imbalance = imbalance_of(examples) if spec.local.class_weights == "balanced" else 1.0
        return Holdings(len(examples), len(held_out.examples) if held_out else None, imbalance)


def imbalance_of(examples: Sequence[Example]) -> float:
    """How many times another's the weight of the rarest class is where all count alike, of labels or tags; where
    examples have lists of labels, of its presence.
    """
    listed = [as_list(example.get("label")) for example in examples]
    if any(several is not None for several in listed):
        classes = Counter(key(each) for several in listed for each in several or ())
        return max((len(examples) - count) / count for count in classes.values()) if classes else 1.0
    classes = Counter(key(each) for example in examples for each in example.get("tags", [example.get("label")]))
    return max(classes.values(), default=1) / min(classes.values(), default=1)


def read_all(data: Mapping[str, DataSet]) -> dict[str, LocalData]:
    """Reads and checks every split.

    Raises:
        DataError: an example is bad; the message names file, row, column and remedy.
    """
    return {
        name: LocalData(_read(item, item.train), _read(item, item.test) if item.test else None)
        for name, item in data.items()
    }


def _read(item: DataSet, path: Path) -> LocalSplit:
    return LocalSplit(path, read_examples(item.split_file(path)))
