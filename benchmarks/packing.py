"""What packing saves: `python -m benchmarks.packing --data FOLDER [--task math] [--batch 16]`.

SmolLM2-135M takes gradients of batches of a data set, as a client does, on one core: each batch as it comes, packed,
of like lengths (`group_by_length`), and both. The script prints tokens computed, padding included, and processor time
for each token of the examples, time beside that of batches as they come; of the runs, taken in turn, the quickest
counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.datasets import load
from benchmarks.models import prepared
from fedgalore.data.batches import batches
from fedgalore.data.examples import Example
from fedgalore.gradients import Gradients
from fedgalore.methods.halves import LocalTraining, Packed
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import parse
from fedgalore.spec.plan import Target

WAYS = {
    "as they come": {},
    "packing": {"packing": True},
    "group_by_length": {"group_by_length": True},
    "both": {"packing": True, "group_by_length": True},
}


class Standing(LocalTraining):
    """Takes no steps."""

    decay = 1.0

    def step(self) -> None:
        pass

    def packed(self, target: Target) -> Packed:
        return Packed({})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/fedgalore")
    parser.add_argument("--task", default="math", choices=["math", "gsm8k"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    examples = load(options.task, options.data, options.cache).train
    folder = prepared("smollm2", options.cache)
    tasks = {way: _task(folder, options.batch, options.steps, local) for way, local in WAYS.items()}
    took = dict.fromkeys(WAYS, float("inf"))
    for _ in range(options.runs):
        for way, task in tasks.items():
            took[way] = min(took[way], _seconds(task, examples) / _tokens(task, examples, options.steps)[1])
    print(f"{options.task}, batches of {options.batch}\n{'':16} tokens computed   time")
    for way, task in tasks.items():
        computed, needed = _tokens(task, examples, options.steps)
        print(f"{way:16} {computed / needed:15.2f} {took[way] / took['as they come']:6.2f}")


def _task(folder: Path, batch: int, steps: int, local: dict[str, bool]) -> TaskModel:
    document = {
        "name": "packing",
        "model": {"source": str(folder), "task": "causal-lm"},
        "data": {"name": "d", "max_length": 512},
        "local": {"steps": steps, "batch_size": batch, **local},
    }
    task = TaskModel.load(parse(document), folder)
    task.model.train()
    return task


def _seconds(task: TaskModel, examples: Sequence[Example]) -> float:
    gradients = Gradients(task, examples, Standing())
    began = time.process_time()
    for batch in batches(examples, task.spec, "a", 1):
        gradients.of(batch)
        task.zero_grad()
    return time.process_time() - began


def _tokens(task: TaskModel, examples: Sequence[Example], steps: int) -> tuple[int, int]:
    """Tokens of the first batches: that are computed, and of the examples."""
    spec = task.spec.model_copy(update={"local": task.spec.local.model_copy(update={"steps": steps})})
    computed = needed = 0
    for batch in batches(examples, spec, "a", 1):
        needed += int(task.collate(batch)["attention_mask"].sum())
        computed += task.collate(batch, trains=True)["input_ids"].numel()
    return computed, needed


if __name__ == "__main__":
    main()
