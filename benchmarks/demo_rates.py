"""Which learning rate each method does best with in the demo: `python benchmarks/demo_rates.py fedgalore fedit`.

Every method gets the same grid and the same rule: the highest mean accuracy over the sites and over the models of the
second half of the rounds, on a fifth of the demo's *training* texts that nobody trains on. The test texts are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fedgalore.data.examples import Example
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import parse
from fedgalore.spec.registry import methods
from fedgalore_cli.demo.job import HEAD_RATE, job_document
from fedgalore_cli.demo.sites import DemoSite, validation_sites

GRID = (3e-4, 6e-4, 1.2e-3, 2.4e-3, 4.8e-3, 9.6e-3)
EVALUATED_EVERY = 3  # no divisor of the period 2 in which one-sided sites swing


def examples(rows: list[dict[str, str]]) -> list[Example]:
    return [{"text": row["text"], "text_pair": None, "label": int(row["label"]), "row": 0} for row in rows]


def validated(sites: list[DemoSite], kind: str, rate: float, rounds: int, seed: int) -> tuple[float, float]:
    """Mean accuracy in the second half of the rounds, and of the last model."""
    document = job_document(len(sites), rounds, 8, seed, kind)
    document["local"] |= {"learning_rate": rate, "head_learning_rate": HEAD_RATE}
    document["evaluation"] = {"every": EVALUATED_EVERY}
    spec = parse(document)
    held = [Site(site.name, examples(site.train), examples(site.test)) for site in sites]
    curve = {}
    for record in simulate(spec, Path(spec.model.source), held).rounds:
        if record.evaluation:
            accuracies = [metrics["accuracy"] for metrics in record.evaluation.values()]
            curve[record.model_version] = sum(accuracies) / len(accuracies)
    late = [accuracy for version, accuracy in curve.items() if version > rounds / 2]
    return sum(late) / len(late), curve[rounds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=tuple(methods()))
    parser.add_argument("--rates", type=float, nargs="+", default=GRID)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sites = validation_sites(4, 0.1, options.seed)
    for kind in options.kinds:
        for rate in options.rates:
            late, last = validated(sites, kind, rate, options.rounds, options.seed)
            print(f"{kind:<12} {rate:<8g} second half {late:.1%}  last {last:.1%}", flush=True)


if __name__ == "__main__":
    main()
