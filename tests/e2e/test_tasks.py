"""A job of each task across real processes: it learns, its bits are the simulation's, its download is of the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgalore.model.tasks.registry import TASKS
from tests.e2e.conftest import TASK_CASES, Running, different, ended, named
from tests.fedgalore.conftest import tiny_bert, tiny_chat, tiny_gpt2, tiny_t5, tiny_vit  # noqa: F401  # fixtures
from tests.fedgalore.tasks import CASES

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]  # on a busy machine every process needs its time


@pytest.mark.parametrize("name", TASK_CASES)
def test_a_task_is_learned_with_the_bits_of_the_simulation(
    name: str, running: Running, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = CASES[name]
    sections = {
        "model": {"source": str(request.getfixturevalue(case.folder)), "num_labels": None, **case.model},
        "data": {"name": named(name), "max_length": 24},
        "rounds": {"count": 8},
        "method": {"train_also": list(case.also)},
        "local": {"steps": 8, "weight_decay": 0.0, **case.local},
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
