"""One run of the benchmark: data, split, simulation and result."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import datasets, models
from benchmarks.suites import Result, Run, measured_job
from fedgalore.spec.job import JobSpec


def sites_of(run: Run, dataset: datasets.DataSet) -> list[Any]:
    """The run's clients with their shards; the first client is the attacker, if the run has an attacker."""
    from benchmarks.attackers import corrupted
    from fedgalore.data.partition import split
    from fedgalore.simulation import Site

    data = run["data"]
    keys = dataset.keys(data.get("by", "label")) if data["split"] != "iid" else [0] * len(dataset.train)
    shards = split(data["split"], keys, data["clients"], data.get("alpha", 1.0), data["seed"], data["least"])
    width = len(str(data["clients"]))
    sites = [Site(f"client-{i:0{width}}", [dataset.train[j] for j in shard]) for i, shard in enumerate(shards, 1)]
    if run["attack"]:
        sites[0] = corrupted(sites[0], run["attack"])
    return sites


def perform(run: Run, data_folder: Path, cache: Path) -> Result:
    """Runs the simulation in the calling process, which it limits to one thread.

    Test examples are read once, at the end. A run that diverges has `test: None`.
    """
    import torch

    torch.set_num_threads(1)
    from fedgalore.evaluation import evaluate
    from fedgalore.records import RoundRecord
    from fedgalore.simulation import simulate
    from fedgalore.training import TrainingError

    data = run["data"]
    sizes = {name: data[name] for name in ("max_train", "max_validation", "max_test") if name in data}
    dataset = datasets.load(data["name"], data_folder, cache, **sizes)
    folder = models.prepared(run["model"], cache)
    spec = measured_job(run, str(folder), dataset.num_labels)
    curve: list[dict[str, Any]] = []
    statistics: list[dict[str, float]] = []
    up = down = 0

    def note(record: RoundRecord) -> None:
        nonlocal up, down
        if record.held_out:
            point = {"version": record.model_version, "up_bytes": up, "down_bytes": down}
            curve.append(point | {"validation": _rounded(record.held_out["validation"].metrics)})
        up, down = up + record.up_bytes, down + record.down_bytes
        if record.statistics:
            statistics.append(record.statistics)

    started, cpu = time.time(), time.process_time()
    test: dict[str, float] | None = None
    failure = None
    try:
        sites, held_out = sites_of(run, dataset), {"validation": dataset.validation}
        result = simulate(without_generation(spec), folder, sites, on_round=note, held_out=held_out)
        test = _rounded(evaluate(result.task.under(spec), dataset.test).metrics)
    except TrainingError as error:
        failure = str(error)
    names = sorted({name for row in statistics for name in row})
    return {
        "run": run,
        "test": test,
        "diverged": failure,
        "curve": curve,
        "up_bytes": up,
        "down_bytes": down,
        "statistics": {name: round(mean(row[name] for row in statistics if name in row), 4) for name in names},
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.time() - started, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__.split('+')[0]}",
    }


def without_generation(spec: JobSpec) -> JobSpec:
    """The job without exact match: generating answers takes longer than training, and only the test asks for it."""
    return spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"exact_match": None})})


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in metrics.items()}
