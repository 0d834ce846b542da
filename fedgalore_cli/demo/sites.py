"""The demo's sites: real texts of four domains, split so that no two sites look alike.

Training texts are spread by Dirichlet label skew over the eight classes domain x sentiment, so that a site may hold
almost only negative film reviews. A site is tested on held-out texts of the domains it holds, in its own mix of
domains, but with as many positive as negative ones: it has to learn from the others what its own texts do not teach.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fedgalore.data.partition import dirichlet
from fedgalore.selection import choose_cohort

EXCERPT = Path(__file__).parent / "data" / "sentiment.csv"
LABELS = ("negative", "positive")
DATASET = "sentiment"
MIN_TRAIN = 200
TEST_SIZE = 200

Row = dict[str, str]


@dataclass(frozen=True)
class DemoSite:
    name: str
    train: list[Row]
    test: list[Row]

    @property
    def domains(self) -> dict[str, int]:
        return dict(sorted(Counter(row["domain"] for row in self.train).items()))

    @property
    def positive_share(self) -> float:
        """Share of positive texts in the training shard."""
        return sum(row["label"] == "1" for row in self.train) / len(self.train)

    @property
    def majority(self) -> float:
        """What always answering the test texts' more frequent class would score."""
        return max(Counter(row["label"] for row in self.test).values()) / len(self.test)


def demo_sites(clients: int, alpha: float, seed: int) -> list[DemoSite]:
    """Splits the shipped excerpt over `clients` sites named site-1, site-2, ...

    Raises:
        ValueError: so many clients that a site would hold fewer than 200 texts.
    """
    train, test = _rows("train"), _rows("test")
    shards = dirichlet([(row["domain"], row["label"]) for row in train], clients, alpha, seed, MIN_TRAIN)
    sites = []
    for number, shard in enumerate(shards, start=1):
        local = [train[index] for index in shard]
        sites.append(DemoSite(f"site-{number}", local, _test_rows(local, test, seed)))
    return sites


def validation_sites(clients: int, alpha: float, seed: int) -> list[DemoSite]:
    """The same sites for choosing settings: tested on a fifth of the training texts, which they do not train on.

    Raises:
        ValueError: as `demo_sites`.
    """
    train = _rows("train")
    held_out = [row for place, row in enumerate(train) if place % 5 == 0]
    texts = {row["text"] for row in held_out}
    sites = []
    for site in demo_sites(clients, alpha, seed):
        kept = [row for row in site.train if row["text"] not in texts]
        sites.append(DemoSite(site.name, kept, _test_rows(kept, held_out, seed)))
    return sites


def _rows(split: str) -> list[Row]:
    with EXCERPT.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def _test_rows(local: list[Row], test: list[Row], seed: int) -> list[Row]:
    counts = Counter(row["domain"] for row in local)
    chosen: list[Row] = []
    for domain, count in sorted(counts.items()):
        for label in ("0", "1"):
            pool = {row["text"]: row for row in test if row["domain"] == domain and row["label"] == label}
            wanted = round(TEST_SIZE * count / len(local) / 2)
            chosen += [pool[text] for text in choose_cohort(pool, wanted, seed, 0)]
    return chosen
