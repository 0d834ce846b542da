"""What `benchmarks/accuracy.yaml` says: suites of entries, each entry's runs, and the one rule for learning rates."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fedgalore.spec.job import JobSpec, parse

Run = dict[str, Any]  # all that determines a result: model, data, attack, job
Result = dict[str, Any]

# Raised when a change of the code changes what jobs of these kinds compute; results of other revisions no longer count.
REVISIONS = {"fedgalore": 5, "fedavg": 1}
REVISIONS |= dict.fromkeys(("fedit", "ffa_lora", "flora", "fedex_lora", "frlora", "fedsvd"), 1)
# Fields that came later, with the value at which everything is as it was before them.
NEUTRAL: dict[str, Any] = {
    "method.global_momentum": 0.0,
    "method.state_scale": "own",
    "server.clip_norm": None,
    "server.drop_norm": None,
    "server.max_examples": None,
    "server.max_weight": None,
    "server.weighting": "examples",
    "server.aggregation": "mean",
    "server.trim_share": 0.1,
    "privacy": None,
    "evaluation.keep": None,
    "evaluation.metrics": [],
    "evaluation.central": None,
    "model.dtype": "base",
    "model.problem": None,
    "local.class_weights": None,
    "local.micro_batch_size": None,
    "local.max_grad_norm": None,
    "local.activation_checkpointing": False,
    "local.schedule": None,
    "local.warmup_rounds": 0,
    "local.final_share": None,
    "local.packing": False,
    "method.train_also": [],
    "data.template": None,
    "wire": {"bits": None, "up_rank": None, "down_rank": None},
    "local.weights": "float32",
}
# Fedgalore's revision 4 sent its factors in float16, of these ranks; its results stay, and are not run any more.
OLD_RANKS = ("uplink_rank", "downlink_rank")
# The linear layers of the models here. fedavg is measured on what the other methods train, not on all that it can.
LINEAR = (
    *("query.weight", "key.weight", "value.weight", "dense.weight"),
    *("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "fc1.weight", "fc2.weight"),
    *("gate_proj.weight", "up_proj.weight", "down_proj.weight"),
)
# Every site counts by all its examples, unless a run says otherwise: results of before the limit stay true.
BELIEVED = {"max_weight": None}
# Fields that no result depends on.
IRRELEVANT = (
    *("name", "data.name", "model.source", "model.num_labels"),
    *("rounds.deadline_s", "rounds.selection_wait_s", "rounds.keep_versions"),
)


@dataclass(frozen=True)
class Entry:
    """One line of a suite's table.

    The climb to the best rate begins at `start`, by default in the middle of the grid. A good start saves runs. With
    `every_rate` there is no climb: the first seed runs at all rates.
    """

    suite: str
    name: str
    base: Run  # without learning rate and seed
    grid: tuple[float | None, ...]  # None: the job names no rate
    seeds: tuple[int, ...]
    every_rate: bool
    start: float | None

    def run(self, rate: float | None, seed: int) -> Run:
        run = copy.deepcopy(self.base)
        run["job"]["local"]["learning_rate"] = rate
        run["job"]["seed"] = run["data"]["seed"] = seed
        return run


def job_of(run: Run, folder: str = "model", num_labels: int | None = 2) -> JobSpec:
    """The run's job; a language model has no labels."""
    if is_old(run):
        method = {name: value for name, value in run["job"]["method"].items() if name not in OLD_RANKS}
        run = run | {"job": run["job"] | {"method": method}}
    task = run["job"].get("model", {}).get("task", "sequence-classification")
    model = {"source": folder, "num_labels": None if task == "causal-lm" else num_labels}
    job = merged({"server": BELIEVED}, run["job"])
    return parse(merged(job, {"name": "benchmark", "data": {"name": run["data"]["name"]}, "model": model}))


def measured_job(run: Run, folder: str, num_labels: int | None) -> JobSpec:
    """The run's job as it is simulated."""
    if run["job"].get("method", {}).get("kind") == "fedavg":
        run = merged(run, {"job": {"method": run["job"]["method"] | {"target_modules": list(LINEAR)}}})
    return job_of(run, folder, num_labels)


def key_of(run: Run) -> str:
    """The key of a run: a hash of its job with every default written out, its data and its method's revision."""
    job = job_of(run).model_dump(mode="json")
    for field in IRRELEVANT:
        _drop(job, field.split("."))
    for field, value in NEUTRAL.items():
        _drop(job, field.split("."), only=value)
    job["evaluation"]["batch_size"] = job["evaluation"]["batch_size"] or 64  # what it was by default
    sync = job["method"].get("state_sync")
    if sync in ("reset", "local"):  # nothing is combined
        _drop(job, ["method", "state_scale"])
    if sync == "reset":  # nothing is carried either, so the default does not matter
        job["method"]["prior_steps"] = 10.0
    if is_old(run):
        job["method"] |= {name: run["job"]["method"].get(name) for name in OLD_RANKS}
    identity = {name: run[name] for name in ("model", "data", "attack")}
    identity |= {"job": job, "revision": 4 if is_old(run) else REVISIONS[job["method"]["kind"]]}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def is_old(run: Run) -> bool:
    """Whether it is of fedgalore's revision 4: every committed run that names no later one."""
    return run["job"].get("method", {}).get("kind", "fedgalore") == "fedgalore" and run.get("revision", 4) == 4


_ANY = object()


def _drop(document: dict[str, Any], path: list[str], only: Any = _ANY) -> None:
    *parents, last = path
    for name in parents:
        document = document.get(name, {})
    if last in document and (only is _ANY or document[last] == only):
        del document[last]


def entries_of(document: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of all suites; later sections are merged over earlier ones: defaults, suite, entry.

    Raises:
        ValueError: a start that the grid does not hold; a suite that asks for an entry that is not among the defaults.
        SpecError: not a valid job.
    """
    defaults = document.get("defaults", {})
    known = defaults.get("entries", {})
    for suite, given in document["suites"].items():
        common = merged(defaults, given)
        entries = given.get("entries", known)
        if isinstance(entries, list):  # by name, from the defaults
            if missing := [name for name in entries if name not in known]:
                names = ", ".join(missing)
                raise ValueError(
                    f"suites.{suite}.entries: defaults.entries lacks {names}; add it there, or leave it out"
                )
            entries = {name: known[name] for name in entries}
        for name, more in entries.items():
            whole = merged(common, more or {})
            grid = tuple(_rate(given) for given in whole["grid"])
            start = _rate(whole.get("start", grid[len(grid) // 2]))
            if start not in grid:
                raise ValueError(
                    f"suites.{suite}, {name}: start {in_words(start)} is not in the grid; take a rate of the grid"
                )
            yield Entry(
                suite=suite,
                name=name,
                base={
                    "model": whole["model"],
                    "data": whole["data"],
                    "attack": whole.get("attack"),
                    "revision": whole.get("revision", REVISIONS["fedgalore"]),
                    "job": merged({"local": {}}, whole["job"]),
                },
                grid=grid,
                seeds=tuple(whole["seeds"]),
                every_rate=bool(whole.get("every_rate", False)),
                start=start,
            )


def _rate(given: Any) -> float | None:
    return None if given is None else float(given)


def in_words(rate: float | None) -> str:
    """A learning rate for people."""
    return "none named" if rate is None else f"{rate:g}"


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
    """How good a run is by validation; more is better.

    The score is the mean of the last two evaluations: their accuracy, or a language model's negative answer loss. A run
    that diverged is below all others.
    """
    if result["test"] is None:
        return float("-inf")
    language = result["run"]["job"].get("model", {}).get("task") == "causal-lm"
    last = [point["validation"] for point in result["curve"]][-2:]
    return mean(-point["loss"] if language else point["accuracy"] for point in last)


def walk(entry: Entry, results: Mapping[str, Result]) -> tuple[list[float | None], float | None]:
    """The rates that the rule still has to try, and the best rate so far.

    The first seed goes from `start` towards the better neighbour until both neighbours are worse, or tries all rates.
    """
    grid = entry.grid

    def seen(index: int) -> Result | None:
        return results.get(key_of(entry.run(grid[index], entry.seeds[0])))

    def best_of(indices: list[int], here: int) -> int:
        return max(indices, key=lambda index: (score(seen(index) or _NOTHING), index == here))

    if entry.every_rate:
        done = [index for index in range(len(grid)) if seen(index) is not None]
        left = [grid[index] for index in range(len(grid)) if index not in done]
        return left, grid[best_of(done, -1)] if done else entry.start
    here = grid.index(entry.start)
    while True:
        around = [index for index in (here, here - 1, here + 1) if 0 <= index < len(grid)]
        left = [grid[index] for index in around if seen(index) is None]
        if left:
            return left, grid[here]
        best = best_of(around, here)
        if best == here:
            return [], grid[here]
        here = best


_NOTHING: Result = {"test": None}


def wanted(entry: Entry, results: Mapping[str, Result]) -> list[Run]:
    """The runs that can be done now: rates first, then the other seeds."""
    if is_old(entry.base):
        return []
    rates, best = walk(entry, results)
    if rates:
        return [entry.run(rate, entry.seeds[0]) for rate in rates]
    runs = [entry.run(best, seed) for seed in entry.seeds]
    return [run for run in runs if key_of(run) not in results]


def chosen_runs(entry: Entry, results: Mapping[str, Result]) -> list[Result]:
    """The finished runs at the entry's chosen rate, one for each seed; none until the rate is chosen."""
    left, best = walk(entry, results)
    if left:
        return []
    keys = [key_of(entry.run(best, seed)) for seed in entry.seeds]
    return [results[key] for key in keys if key in results]
