"""Methods x data sets x seeds in the simulation: `python benchmarks/accuracy.py [--suite NAME] [--jobs 2]`.

Everything is said in one YAML (`benchmarks/accuracy.yaml`). Each entry of a suite takes its learning rate from the
suite's one grid by one rule: from the middle, towards the better neighbour until both neighbours are worse, by accuracy
on validation examples that are cut from the training data (mean of the last two evaluations). Test examples are looked
at only at the end of a run and choose nothing. The rate found with the first seed is then used with all seeds.

A run is known by a hash of all that determines it. Finished runs stand in `benchmarks/results/<suite>.json` and are
never run again; a run that is interrupted leaves nothing behind. A run that diverges counts as one without accuracy.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]  # `deploy` and `fedgalore`, however the script was started

from benchmarks import datasets, models  # noqa: E402
from fedgalore.job_spec import parse  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
Run = dict[str, Any]  # all that determines a result
Result = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One line of a suite's table."""

    suite: str
    name: str
    base: Run  # without learning rate and seed
    grid: tuple[float, ...]
    seeds: tuple[int, ...]
    every_rate: bool

    def run(self, rate: float, seed: int) -> Run:
        run = copy.deepcopy(self.base)
        run["job"]["local"]["learning_rate"] = rate
        run["job"]["seed"] = run["data"]["seed"] = seed
        return run


def key_of(run: Run) -> str:
    """What a run is known by."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def entries_of(document: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of all suites; later sections are merged over earlier ones: defaults, suite, entry."""
    defaults = document.get("defaults", {})
    for suite, given in document["suites"].items():
        common = merged(defaults, given)
        for name, own in given.get("entries", defaults.get("entries", {})).items():
            whole = merged(common, own or {})
            yield Entry(
                suite=suite,
                name=name,
                base={
                    "model": whole["model"],
                    "data": whole["data"],
                    "attack": whole.get("attack"),
                    "job": merged({"local": {}}, whole["job"]),
                },
                grid=tuple(float(rate) for rate in whole["grid"]),
                seeds=tuple(whole["seeds"]),
                every_rate=bool(whole.get("every_rate", False)),
            )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merged key by key; a mapping with a `kind` is taken whole."""
    result = copy.deepcopy(dict(below))
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "kind" not in value:
            result[key] = merged(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


# --- the rule for learning rates -----------------------------------------------------------------------------


def score(result: Result) -> float:
    """Validation accuracy at a run's end; a run that diverged has none."""
    curve = [point["validation"] for point in result["curve"]]
    return mean(curve[-2:]) if result["test"] is not None else -1.0


def chosen_rate(entry: Entry, results: Mapping[str, Result]) -> float | None:
    """The rate the rule ends at; None while runs are missing."""
    rates, found = walk(entry, results)
    return None if rates else found


def walk(entry: Entry, results: Mapping[str, Result]) -> tuple[list[float], float]:
    """Rates that the rule still wants to see, and the best one so far."""

    def seen(index: int) -> Result | None:
        return results.get(key_of(entry.run(entry.grid[index], entry.seeds[0])))

    if entry.every_rate:
        todo = [index for index in range(len(entry.grid)) if seen(index) is None]
        done = [index for index in range(len(entry.grid)) if seen(index) is not None]
        best = max(done, key=lambda index: score(seen(index) or {}), default=0)
        return [entry.grid[index] for index in todo], entry.grid[best]
    here = len(entry.grid) // 2
    while True:
        around = [index for index in (here - 1, here, here + 1) if 0 <= index < len(entry.grid)]
        todo = [index for index in around if seen(index) is None]
        if todo:
            return [entry.grid[index] for index in todo], entry.grid[here]
        best = max(around, key=lambda index: (score(seen(index) or {}), index == here))
        if best == here:
            return [], entry.grid[here]
        here = best


def wanted(entry: Entry, results: Mapping[str, Result]) -> list[Run]:
    """The runs that can be done now: rates first, then the other seeds."""
    rates, best = walk(entry, results)
    if rates:
        return [entry.run(rate, entry.seeds[0]) for rate in rates]
    chosen = entry.grid if entry.every_rate else (best,)
    runs = [entry.run(rate, seed) for rate in chosen for seed in entry.seeds]
    return [run for run in runs if key_of(run) not in results]


# --- one run -------------------------------------------------------------------------------------------------


def perform(run: Run, data_folder: Path, cache: Path) -> Result:
    """Runs the simulation; called in a process of its own with one thread."""
    import torch

    torch.set_num_threads(1)
    from benchmarks.attackers import corrupted
    from fedgalore.partition import split
    from fedgalore.simulation import RoundRecord, Site, simulate
    from fedgalore.training import TrainingError, evaluate

    data = run["data"]
    found = datasets.load(data["name"], data_folder, data.get("max_train"), data.get("max_test"))
    by = data.get("by", "label")
    shards = split(data["split"], found.keys(by), data["clients"], data.get("alpha", 1.0), data["seed"], data["least"])
    width = len(str(data["clients"]))
    sites = [Site(f"client-{i:0{width}}", [found.train[j] for j in shard]) for i, shard in enumerate(shards, 1)]
    if run["attack"]:
        sites[0] = corrupted(sites[0], run["attack"])
    folder = models.prepared(run["model"], cache)
    spec = parse(
        merged(run["job"], {"name": "benchmark", "data": {"name": data["name"]}})
        | {"model": {"source": str(folder), "num_labels": found.num_labels}}
    )
    curve: list[dict[str, float]] = []
    statistics: list[dict[str, float]] = []
    up = down = 0

    def note(record: RoundRecord) -> None:
        nonlocal up, down
        if record.held_out:
            accuracy = record.held_out["validation"]["accuracy"]
            curve.append({"version": record.model_version, "validation": accuracy, "up_bytes": up})
        up, down = up + record.up_bytes, down + record.down_bytes
        if record.statistics:
            statistics.append(record.statistics)

    started, cpu = time.time(), time.process_time()
    test: float | None = None
    try:
        result = simulate(spec, folder, sites, on_round=note, held_out={"validation": found.validation})
        test = evaluate(result.task, spec, found.test)["accuracy"]
    except TrainingError:
        pass  # diverged
    names = sorted({name for row in statistics for name in row})
    return {
        "run": run,
        "test": test,
        "curve": curve,
        "up_bytes": up,
        "down_bytes": down,
        "statistics": {name: round(mean(row[name] for row in statistics if name in row), 4) for name in names},
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.time() - started, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__.split('+')[0]}",
    }


# --- results -------------------------------------------------------------------------------------------------


@dataclass
class Store:
    """Results by suite, each in a file of its own."""

    folder: Path
    suites: dict[str, dict[str, Result]] = field(default_factory=dict)

    def of(self, suite: str) -> dict[str, Result]:
        if suite not in self.suites:
            path = self.folder / f"{suite}.json"
            self.suites[suite] = json.loads(path.read_text()) if path.exists() else {}
        return self.suites[suite]

    def add(self, suite: str, result: Result) -> None:
        """The file is replaced whole, so that it is always a valid one."""
        results = self.of(suite)
        results[key_of(result["run"])] = result
        path = self.folder / f"{suite}.json"
        draft = path.with_suffix(".draft")
        lines = [f"{json.dumps(key)}: {json.dumps(results[key], sort_keys=True)}" for key in sorted(results)]
        draft.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        draft.replace(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps a second benchmark from writing here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(f"another benchmark writes to {self.folder}; wait for it, or use its --jobs")
            yield


def available(entries: list[Entry], data_folder: Path, cache: Path) -> list[Entry]:
    """The entries whose data and model are here; says once of each other one why it is left out."""
    missing: dict[str, str | None] = {}
    for entry in entries:
        for name, check in (
            (entry.base["data"]["name"], lambda name: datasets.load(name, data_folder)),
            (entry.base["model"], lambda name: models.prepared(name, cache)),
        ):
            if name not in missing:
                try:
                    check(name)
                    missing[name] = None
                except (datasets.Missing, models.Missing) as error:
                    missing[name] = str(error)
                    print(f"left out, {error}")
    return [e for e in entries if not missing[e.base["data"]["name"]] and not missing[e.base["model"]]]


def run_all(entries: list[Entry], store: Store, data_folder: Path, cache: Path, jobs: int, most_s: float) -> None:
    """Works until nothing is left to do, or no new run may begin."""
    ends = time.monotonic() + most_s
    in_flight: dict[Future[Result], tuple[Entry, str]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        while True:
            busy = {key for _, key in in_flight.values()}
            for entry in entries:
                for run in wanted(entry, store.of(entry.suite)):
                    key = key_of(run)
                    if key not in busy and len(in_flight) < jobs and time.monotonic() < ends:
                        in_flight[pool.submit(perform, run, data_folder, cache)] = (entry, key)
                        busy.add(key)
            if not in_flight:
                return
            for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                entry, _ = in_flight.pop(future)
                result = future.result()
                store.add(entry.suite, result)
                job = result["run"]["job"]
                test = "diverged" if result["test"] is None else f"test {result['test']:.1%}"
                print(
                    f"{entry.suite} / {entry.name}: rate {job['local']['learning_rate']:g}, seed {job['seed']}: {test} "
                    f"({result['wall_s']:.0f} s)",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "benchmarks" / "accuracy.yaml")
    parser.add_argument("--suite", action="append", help="only this suite; may be given again")
    parser.add_argument("--entry", action="append", help="only this entry; may be given again")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each with one thread")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no new run after this long")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "fedgalore", help="folder for models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="no runs; tables and plots from the results that stand")
    parser.add_argument("--list", action="store_true", help="no runs; what is done and what is left, by entry")
    options = parser.parse_args()
    document = yaml.safe_load(options.config.read_text())
    entries = [
        entry
        for entry in entries_of(document)
        if (not options.suite or entry.suite in options.suite) and (not options.entry or entry.name in options.entry)
    ]
    if not entries:
        sys.exit(f"--suite, --entry: nothing of this name; suites: {', '.join(document['suites'])}")
    os.environ["OMP_NUM_THREADS"] = "1"
    store = Store(options.results)
    if options.list:
        for entry in entries:
            results = store.of(entry.suite)
            rate = chosen_rate(entry, results)
            print(f"{entry.suite} / {entry.name}: rate {rate or 'not found'}, {len(wanted(entry, results))} runs next")
    elif options.report:
        from benchmarks import report

        report.write(entries, store, options.results)
    else:
        with store.claimed():
            options.cache.mkdir(parents=True, exist_ok=True)
            here = available(entries, options.data, options.cache)
            run_all(here, store, options.data, options.cache, options.jobs, 60 * options.minutes)


if __name__ == "__main__":
    main()
