"""Makes the texts that the demo and the compose example ship, from the VADER ground truth of four domains.

For maintainers; users never need it: `python fedgalore_cli/demo/make_excerpt.py FOLDER`, where FOLDER holds the four
`*_GroundTruth.txt` files (plain or `.gz`), tab-separated as id, mean rating from -4 to 4, text. `data/NOTICE` names
their source and licence. The choice of rows depends only on hashes of their ids, so a rerun writes the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import html
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXCERPT = HERE / "data" / "sentiment.csv"
SHARDS = HERE.parents[1] / "deploy" / "compose" / "data"

SOURCES = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
SITES = {"agent-1": ("amazon", "tweets"), "agent-2": ("movie", "nyt")}
CLEAR_RATING = 0.5
PER_LABEL = {"test": 125, "train": 750}
PER_SITE_LABEL_AND_DOMAIN = {"test": 20, "train": 80}

HANDLE = re.compile(r"@\w+")
LINK = re.compile(r"(?:https?://|www\.)\S+")


@dataclass(frozen=True)
class Example:
    text: str
    label: int  # 0 negative, 1 positive
    domain: str
    group: str  # the review or editorial that the sentence is from; a whole group lies on one side of the split
    ticket: bytes  # pseudo-random place in every order


def ticket(*parts: str) -> bytes:
    return sha256("\0".join(parts).encode()).digest()


def read_domain(folder: Path, domain: str) -> Iterator[Example]:
    """Clearly rated examples, each text once; names of people and addresses of pages are masked."""
    path = folder / SOURCES[domain]
    packed = path.with_name(path.name + ".gz")
    seen = set()
    with gzip.open(packed, "rt", encoding="utf-8") if packed.exists() else path.open(encoding="utf-8") as lines:
        for line in lines:
            row_id, rating, raw = line.rstrip("\n").split("\t")
            text = " ".join(LINK.sub("http", HANDLE.sub("@user", html.unescape(raw))).split())
            if abs(float(rating)) <= CLEAR_RATING or text.lower() in seen:
                continue
            seen.add(text.lower())
            yield Example(text, int(float(rating) > 0), domain, row_id.split("_")[0], ticket(domain, row_id))


def split(examples: list[Example]) -> dict[str, list[Example]]:
    """Equal numbers of both labels in each split, no group in both.

    Raises:
        ValueError: the domain holds too few examples of a label.
    """
    chosen: dict[str, list[Example]] = {}
    groups = sorted({example.group for example in examples}, key=lambda group: ticket(examples[0].domain, group))
    rank = {group: place for place, group in enumerate(groups)}
    left = sorted(examples, key=lambda example: (rank[example.group], example.ticket))
    for name, quota in PER_LABEL.items():
        chosen[name] = []
        for label in (0, 1):
            rows = [example for example in left if example.label == label][:quota]
            if len(rows) < quota:
                raise ValueError(
                    f"{examples[0].domain}: label {label} has {len(rows)} {name} examples, and {quota} are needed"
                )
            chosen[name] += rows
        used = {example.group for example in chosen[name]}
        left = [example for example in left if example.group not in used]
        chosen[name].sort(key=lambda example: example.ticket)
    return chosen


def write_shards(domains: dict[str, dict[str, list[Example]]]) -> None:
    """A folder of JSONL files for each agent of the compose example: two domains a site, so the sites differ."""
    for site, names in SITES.items():
        folder = SHARDS / site
        folder.mkdir(parents=True, exist_ok=True)
        for name, quota in PER_SITE_LABEL_AND_DOMAIN.items():
            rows = [
                example
                for domain in names
                for label in (0, 1)
                for example in [candidate for candidate in domains[domain][name] if candidate.label == label][:quota]
            ]
            rows.sort(key=lambda example: example.ticket)
            lines = (json.dumps({"text": row.text, "label": row.label}, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(folder: Path) -> None:
    domains = {domain: split(list(read_domain(folder, domain))) for domain in SOURCES}
    EXCERPT.parent.mkdir(exist_ok=True)
    with EXCERPT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label", "domain", "split"])
        for domain, splits in domains.items():
            for name, examples in splits.items():
                writer.writerows([example.text, example.label, domain, name] for example in examples)
    write_shards(domains)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
