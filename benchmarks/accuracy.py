"""Methods x data sets x seeds in the simulation: `python -m benchmarks.accuracy [--suite NAME] [--jobs 2]`.

`benchmarks/accuracy.yaml` describes all runs. Each entry of a suite takes its learning rate from the suite's grid by
the same rule. The first seed climbs towards the better neighbour until both neighbours are worse. Rates are compared on
validation examples that are cut from the training data (mean of the last two evaluations). Test examples are read only
at the end of a run and choose nothing. All seeds then use the chosen rate.

A run is identified by a hash of everything that determines it. Finished runs stand in
`benchmarks/results/<suite>.json`. They are never repeated, and they count in every suite that asks for the same run. An
interrupted run leaves nothing behind. A run that diverges counts as a run without accuracy. A run that fails otherwise
is named, and the others go on.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import yaml

from benchmarks import datasets, models, report
from benchmarks.perform import perform
from benchmarks.suites import Entry, Result, entries_of, in_words, key_of, walk, wanted
from fedgalore.process import durable
from fedgalore.spec.job import SpecError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHIPPED = ROOT / "benchmarks" / "accuracy.yaml"


class Store:
    """Results by key, in a file for each suite. A run that any suite has finished is not repeated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._suites = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        self.results: dict[str, Result] = {
            key: result for suite in self._suites.values() for key, result in suite.items()
        }

    def add(self, suite: str, result: Result) -> None:
        """Stores a result. The suite's file is replaced whole, so that it is always valid."""
        key = key_of(result["run"])
        self.results[key] = result
        mine = self._suites.setdefault(suite, {})
        mine[key] = result
        path = self._folder / f"{suite}.json"
        lines = [f"{json.dumps(key)}: {json.dumps(mine[key], sort_keys=True)}" for key in sorted(mine)]
        with durable.survives_power_cut(path) as draft:  # the file may hold days of work
            draft.write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps a second benchmark from writing here."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(
                    f"--results: another benchmark writes to {self._folder}; wait until it ends, or give it more --jobs"
                )
            yield


def available(entries: list[Entry], data_folder: Path, cache: Path) -> list[Entry]:
    """The entries whose data and model are here. Prints each missing data set and model once, with the remedy."""
    missing: dict[str, str | None] = {}
    for entry in entries:
        for name, check in (
            (entry.base["data"]["name"], lambda name: datasets.load(name, data_folder, cache)),
            (entry.base["model"], lambda name: models.prepared(name, cache)),
        ):
            if name not in missing:
                try:
                    check(name)
                    missing[name] = None
                except (datasets.Missing, models.Missing) as error:
                    missing[name] = str(error)
                    print(f"some entries are left out: {error}")
    return [e for e in entries if not missing[e.base["data"]["name"]] and not missing[e.base["model"]]]


@dataclass(frozen=True)
class _Begun:
    entry: Entry
    rate: float | None
    seed: int
    key: str

    def __str__(self) -> str:
        return f"{self.entry.suite} / {self.entry.name}: rate {in_words(self.rate)}, seed {self.seed}"


def run_all(entries: list[Entry], store: Store, data_folder: Path, cache: Path, jobs: int, most_s: float) -> int:
    """Performs runs until none is left or the time is up. Returns the number of runs that failed."""
    ends = time.monotonic() + most_s
    in_flight: dict[Future[Result], _Begun] = {}
    failed: set[str] = set()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        while True:
            begun = failed | {pending.key for pending in in_flight.values()}
            for entry in entries:
                if len(in_flight) >= jobs or time.monotonic() >= ends:
                    break
                for run in wanted(entry, store.results):
                    key, local = key_of(run), run["job"]["local"]
                    if key not in begun and len(in_flight) < jobs:
                        pending = _Begun(entry, local["learning_rate"], run["job"]["seed"], key)
                        in_flight[pool.submit(perform, run, data_folder, cache)] = pending
                        begun.add(key)
            if not in_flight:
                return len(failed)
            for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                pending = in_flight.pop(future)
                try:
                    result = future.result()
                except Exception as error:  # hours of other runs must not be lost with this run
                    failed.add(pending.key)
                    print(f"{pending}: failed: {type(error).__name__}: {error}", flush=True)
                    continue
                store.add(pending.entry.suite, result)
                print(f"{pending}: {_outcome(result)} ({result['wall_s']:.0f} s)", flush=True)


def _outcome(result: Result) -> str:
    if result["test"] is None:
        return f"diverged: {result['diverged']}"
    return "test " + ", ".join(f"{name} {value:.3f}" for name, value in result["test"].items())


def _listing(entry: Entry, store: Store) -> str:
    rates, best = walk(entry, store.results)
    left = wanted(entry, store.results)
    seen = [
        result["cpu_s"]
        for result in store.results.values()
        if result["run"]["data"]["name"] == entry.base["data"]["name"]
    ]
    minutes = f", about {len(left) * mean(seen) / 60:.0f} CPU minutes" if left and seen else ""
    chosen = "not chosen yet" if rates else in_words(best)
    return f"{entry.suite} / {entry.name}: rate {chosen}; next: {len(left)} runs{minutes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=SHIPPED)
    parser.add_argument("--suite", action="append", help="only this suite; may be given again")
    parser.add_argument("--entry", action="append", help="only this entry; may be given again")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each with one thread")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no new run after this long")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "fedgalore", help="folder for models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--report", action="store_true", help="run nothing; write tables and plots of the finished runs"
    )
    parser.add_argument(
        "--list", action="store_true", help="run nothing; print what is done and what is left, by entry"
    )
    options = parser.parse_args()
    try:
        document = yaml.safe_load(options.config.read_text())
        entries = [
            entry
            for entry in entries_of(document)
            if (not options.suite or entry.suite in options.suite)
            and (not options.entry or entry.name in options.entry)
        ]
    except (OSError, yaml.YAMLError, KeyError, ValueError, SpecError) as error:
        sys.exit(f"--config: {options.config}: {error}")
    if not entries:
        sys.exit(f"--suite, --entry: no entry has these names; the suites are {', '.join(document['suites'])}")
    os.environ["OMP_NUM_THREADS"] = "1"
    store = Store(options.results)
    if options.list:
        for entry in entries:
            print(_listing(entry, store))
    elif options.report:
        # The page is of the shipped suites with all their entries.
        page = report.PAGE if options.config == SHIPPED and not options.entry else None
        report.write(entries, store.results, options.results, page, whole=not options.suite)
    else:
        with store.claimed():
            options.cache.mkdir(parents=True, exist_ok=True)
            here = available(entries, options.data, options.cache)
            failed = run_all(here, store, options.data, options.cache, options.jobs, 60 * options.minutes)
        if failed:
            sys.exit(f"{failed} runs failed")


if __name__ == "__main__":
    main()
