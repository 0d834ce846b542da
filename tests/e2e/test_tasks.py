"""A job of each task across real processes: it learns, its bits are the simulation's, its download is of the task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedgalore.data.examples import Example
from fedgalore.model.tasks.registry import TASKS
from fedgalore_cli.local import LocalFederation
from tests.e2e.conftest import NAMES, Running, different, ended
from tests.fedgalore.conftest import tiny_bert, tiny_chat, tiny_gpt2, tiny_t5, tiny_vit  # noqa: F401  # fixtures
from tests.fedgalore.tasks import CASES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # on a busy machine every process needs its time

# Each shares its head with one of the others and its data with another; tests/fedgalore/model/tasks has them too.
PAIRS = ("numbers of a text", "classes of an image", "a number of an image", "answers in a conversation")
KEYS = ("text", "image", "label", "tokens", "tags", "prompt", "completion", "messages")


@pytest.fixture(autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(1)  # as the agents: another number of threads may round differently


def named(case: str) -> str:
    return case.replace(" ", "-")


def written(path: Path, examples: list[Example]) -> str:
    """A table of the examples; images are named relative to it."""
    with path.open("w") as file:
        for example in examples:
            row = {key: value for key, value in example.items() if key in KEYS}
            if "image" in row:
                row["image"] = str(Path(row["image"]).relative_to(path.parent.resolve()))
            file.write(json.dumps(row) + "\n")
    return str(path)


def data_of(case: str, site: str, seed: int, folder: Path) -> dict[str, Any]:
    """One data set of an agent: its files, and columns that are named as an example's keys are."""
    data: dict[str, Any] = {}
    for split, count in (("train", 60), ("test", 30)):
        parts = folder / f"{site}-{named(case)}-{split}"
        examples = CASES[case].make(count, 10 * seed + len(split), parts)
        data[split] = written(folder / f"{parts.name}.jsonl", examples)
    return data | {key: key for key in KEYS if key in examples[0]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Running]:  # noqa: F811
    folder = tmp_path_factory.mktemp("tasks")
    agents = [
        {
            "name": site,
            "threads": 1,
            "data": {named(case): data_of(case, site, seed, folder) for case in CASES if case not in PAIRS},
        }
        for seed, site in enumerate(NAMES)
    ]
    with LocalFederation(folder / "run", agents) as federation:
        yield Running(federation, tiny_bert)


@pytest.mark.parametrize("name", [name for name in CASES if name not in PAIRS])
def test_a_task_is_learned_with_the_bits_of_the_simulation(
    name: str, running: Running, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = CASES[name]
    sections = {
        "model": {"source": str(request.getfixturevalue(case.folder)), "num_labels": None, **case.model},
        "data": {"name": named(name), "max_length": 24},
        "rounds": {"count": 8},
        "local": {"steps": 8, "weight_decay": 0.0},
        "evaluation": {"every": 0},
    }
    job_id = running.post(**sections)
    simulated = running.simulated(**sections)  # while the federation works
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    weights = running.downloaded(job_id, tmp_path, TASKS[simulated.task.spec.model.task].auto_model)
    assert different(weights, simulated) == []
    measured = simulated.rounds[-1].evaluation
    sites = running.get(f"jobs/{job_id}/rounds")["rounds"][-1]["participants"]
    assert {name: site["evaluation"]["metrics"] for name, site in sites.items()} == measured
    metric, bound = case.learned
    values = [metrics[metric] for metrics in measured.values()]
    assert max(values) < bound if metric == "loss" else min(values) > bound, values
