"""The coefficients of `fedgalore.sizing`, measured: `python -m benchmarks.sizing [rounds | passes | preparation]`.

Llamas with random weights are made on the spot. Each measurement is a process of its own; memory is its most anonymous
memory (RssAnon in /proc/self/status).

| printed | what |
|---|---|
| rounds | what a round of an agent takes, beside what the formula says, a parameter and less the libraries |
| passes | bytes that a token adds to a round of training, and to an evaluation, beside what the formula says |
| preparation | what reading a model and making version 0 of it takes at the coordinator, a parameter; by step |
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.aggregation import anonymous_bytes, watched
from benchmarks.large_model import WORDS, Size, make_llama
from fedgalore.sizing import LIBRARIES

T = TypeVar("T")
LENGTH = 256
ROWS = (2, 8)


NARROW, WIDE = Size(8, 512, 1408, 8, 4, 2048), Size(8, 512, 1408, 8, 4, 64000)
MIDDLE = Size(12, 768, 2688, 8, 4, 32000)  # 145 million, its output layer of its own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=CASES, help="default: all")
    chosen = parser.parse_args().what
    for what in [chosen] if chosen else CASES:
        with tempfile.TemporaryDirectory() as name:
            CASES[what](Path(name))


def apart(work: Callable[[], T]) -> T:
    """The work's result, from a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def rounds(folder: Path) -> None:
    parameters = make_llama(folder / "model", MIDDLE, "bfloat16", tied=False)
    for weights in ("float32", "bfloat16"):
        before, most, said = apart(partial(trained_by_an_agent, folder / "model", folder / weights, weights))
        print(
            f"a round of {parameters / 1e6:.0f} million, weights in {weights}: {before / 1e6:.0f} MB before, "
            f"{(most - before) / parameters:.2f} bytes a parameter, by the formula {said / parameters:.2f}"
        )


def trained_by_an_agent(model: Path, folder: Path, weights: str) -> tuple[float, float, int]:
    """Anonymous memory before a job, the most in two rounds of it, and what the formula says without libraries."""
    from client_agent import trainer as agents
    from client_agent.data import LocalSplit
    from fedgalore.model.skeleton import plan_of_folder
    from fedgalore.sizing import SiteMemory

    local = {"batch_size": 1} | ({"weights": weights, "precision": weights} if weights == "bfloat16" else {})
    spec = a_job(model, local, 1)
    plan, trainer = plan_of_folder(spec, model), agents.Trainer("cpu", 1)
    agents._weights_sha256 = lambda *_: ""  # whatever is drawn is version 0
    folder.mkdir()
    most: list[float] = []
    before = anonymous_bytes()
    with watched(most):
        trainer.open("job", spec, plan, model, folder / "held")
        trainer.begin("")
        trainer.reset(0)
        split = LocalSplit(folder, examples(1))
        trainer.train(split, "a", None, None, lambda *_: True, folder / "update", folder / "kept")
    memory = SiteMemory.of(spec, plan)
    return before, most[0], memory.cpu + memory.texts.passes(spec, 0)[0].size_bytes - LIBRARIES


def passes(folder: Path) -> None:
    print(f"{'bytes of a token in a pass':44} {'measured':>10} {'formula':>10}")
    for name, size in (("vocabulary of 2048", NARROW), ("vocabulary of 64000", WIDE)):
        model = folder / name
        make_llama(model, size, "float32", tied=False)
        for words, local in (("", {}), (", checkpointing", {"activation_checkpointing": True})):
            compare(f"training, {name}{words}", [apart(partial(trained, model, rows, local)) for rows in ROWS])
        compare(f"evaluation, {name}", [apart(partial(evaluated, model, rows)) for rows in ROWS])


def compare(title: str, seen: list[tuple[float, int]]) -> None:
    """What each token adds, from passes of few and of many rows."""
    (few, said_few), (many, said_many) = seen
    tokens = (ROWS[1] - ROWS[0]) * LENGTH
    print(f"{title:44} {(many - few) / tokens:10.0f} {(said_many - said_few) / tokens:10.0f}")


def trained(model: Path, rows: int, local: dict[str, Any]) -> tuple[float, int]:
    """The most memory of a round, and what the formula says of its texts."""
    from fedgalore.model.task import TaskModel
    from fedgalore.rounds import LocalRound, Start
    from fedgalore.sizing import TextMemory
    from fedgalore.training import local_update

    spec = a_job(model, {"batch_size": rows, **local}, 1)
    task = TaskModel.load(spec, model)
    most: list[float] = []
    start = Start(task.weights())
    with watched(most):
        local_update(LocalRound(task, "a", 1, start), examples(rows))
    return most[0], TextMemory.of(spec, task.plan).trained * rows * LENGTH


def evaluated(model: Path, rows: int) -> tuple[float, int]:
    from fedgalore.evaluation import evaluate
    from fedgalore.model.task import TaskModel
    from fedgalore.sizing import TextMemory

    spec = a_job(model, {"batch_size": 1}, rows)
    task = TaskModel.load(spec, model)
    most: list[float] = []
    with watched(most):
        evaluate(task, examples(rows))
    return most[0], TextMemory.of(spec, task.plan).evaluated * rows * LENGTH


def examples(rows: int) -> list[dict[str, Any]]:
    """Each fills the longest text; nearly all of it counts."""
    return [{"row": row, "prompt": "w1", "completion": " ".join(WORDS[:LENGTH])} for row in range(rows)]


def a_job(model: Path, local: dict[str, Any], evaluated_rows: int) -> Any:
    from fedgalore.spec.job import parse

    return parse(
        {
            "name": "sizing",
            "model": {"source": str(model), "task": "causal-lm"},
            "data": {"name": "words", "max_length": LENGTH},
            "method": {"kind": "fedgalore", "rank": 8},
            "local": {"steps": 2, "learning_rate": 1e-4, **local},
            "evaluation": {"batch_size": evaluated_rows},
        }
    )


def preparation(folder: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        model = folder / dtype
        parameters = make_llama(model, MIDDLE, dtype, tied=False)
        before, most, by_step = apart(partial(prepared, model, folder / f"blobs {dtype}"))
        print(
            f"preparing {parameters / 1e6:.0f} million in {dtype}: {before / 1e6:.0f} MB before, at most "
            f"{most / 1e6:.0f} MB: {(most - before) / parameters:.2f} bytes a parameter"
        )
        for step, value in by_step:
            print(f"  {step:24} {(value - before) / parameters:6.2f}")


def prepared(model: Path, blobs: Path) -> tuple[float, float, list[tuple[str, float]]]:
    """Anonymous memory before, the most, and the most of each step."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    from coordinator.aggregator import compute
    from coordinator.store.directory_blob_store import DirectoryBlobStore
    from fedgalore.model.task import TaskModel

    steps: list[tuple[str, float]] = []

    def told(owner: Any, name: str, title: str) -> None:
        work = getattr(owner, name)

        def within(*arguments: Any, **named: Any) -> Any:
            peak: list[float] = []
            with watched(peak):
                result = work(*arguments, **named)
            steps.append((title, peak[0]))
            return result

        setattr(owner, name, within)

    told(TaskModel, "load", "load")
    told(compute, "probe", "try")
    told(TaskModel, "save", "export")
    told(compute, "write_weights", "version 0")
    told(compute, "_store_folder", "store")
    told(compute, "answers", "answers")
    told(compute, "of_download", "load back")
    most: list[float] = []
    before = anonymous_bytes()
    with watched(most):
        compute.prepare(a_job(model, {}, 1), DirectoryBlobStore(blobs))
    return before, most[0], steps


CASES: dict[str, Callable[[Path], None]] = {"rounds": rounds, "passes": passes, "preparation": preparation}

if __name__ == "__main__":
    main()
