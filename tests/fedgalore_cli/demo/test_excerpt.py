"""The shipped texts are what their notice says: balanced, split without overlap, small, and with their licence."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from fedgalore_cli.demo import make_excerpt

SHIPPED = [make_excerpt.EXCERPT, *sorted(make_excerpt.SHARDS.glob("*/*.jsonl"))]


def rows() -> list[dict[str, str]]:
    with make_excerpt.EXCERPT.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_domains_and_labels_are_balanced() -> None:
    counts = Counter((row["domain"], row["split"], row["label"]) for row in rows())
    expected = {
        (domain, split, label): quota
        for domain in make_excerpt.SOURCES
        for split, quota in make_excerpt.PER_LABEL.items()
        for label in ("0", "1")
    }
    assert counts == expected


@pytest.mark.slow
def test_no_text_lies_on_both_sides_of_the_split() -> None:
    sides = {
        split: {(row["domain"], row["text"].lower()) for row in rows() if row["split"] == split}
        for split in ("train", "test")
    }
    assert not sides["train"] & sides["test"]


def test_the_agents_shards_are_part_of_the_excerpt() -> None:
    known = {(row["text"], int(row["label"]), row["split"]) for row in rows()}
    for path in SHIPPED[1:]:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert (row["text"], row["label"], path.stem) in known


def test_it_is_small_and_carries_its_licence() -> None:
    assert sum(path.stat().st_size for path in SHIPPED) < 900_000
    notice = (make_excerpt.EXCERPT.parent / "NOTICE").read_text(encoding="utf-8")
    assert "The MIT License" in notice
    assert "2014 cjhutto" in notice


def source(folder: Path, per_group: int = 2) -> Path:
    """Ratings in the shape of the original: every group holds `per_group` sentences of each label, and neutral ones."""
    for domain, name in make_excerpt.SOURCES.items():
        lines = [
            f"{group}_{place}\t{rating}\t{domain} @someone says {group} &amp; {place} at http://example.org/{place}\n"
            for group in range(1000)
            for place, rating in enumerate([1.5, -1.5, 0.2] * per_group)
        ]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def test_a_review_is_never_torn_apart(tmp_path: Path) -> None:
    splits = make_excerpt.split(list(make_excerpt.read_domain(source(tmp_path), "nyt")))
    groups = {name: {example.group for example in examples} for name, examples in splits.items()}
    assert not groups["train"] & groups["test"]
    assert {name: len(examples) for name, examples in splits.items()} == {"test": 250, "train": 1500}
    text = splits["test"][0].text
    assert "@user" in text
    assert text.endswith(" at http")
    assert "&amp;" not in text


def test_too_few_examples_are_named(tmp_path: Path) -> None:
    few = list(make_excerpt.read_domain(source(tmp_path), "movie"))[:300]
    with pytest.raises(ValueError, match="movie: label 0 has .* train examples"):
        make_excerpt.split(few)
