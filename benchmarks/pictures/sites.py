"""What the pictures are computed from: MiniLM with a new head, and gradients of the demo's four sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from fedgalore.maths.projector import orient
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec, parse
from fedgalore_cli.demo.job import job_document
from fedgalore_cli.demo.sites import DemoSite, demo_sites

CLIENTS, RANK, BATCH = 4, 8, 24
ALPHA = 0.1


def job(kind: str = "fedgalore") -> JobSpec:
    document = job_document(CLIENTS, rounds=12, rank=RANK, seed=0, kind=kind)
    document["local"]["precision"] = "float32"
    return parse(document)


def model(spec: JobSpec) -> TaskModel:
    return TaskModel.load(spec, Path(spec.model.source))


def sites() -> list[DemoSite]:
    return demo_sites(CLIENTS, ALPHA, seed=0)


def gradients(task: TaskModel, site: DemoSite, batches: int) -> Iterator[dict[str, Tensor]]:
    """The gradient of each target `(d, k)`, `d <= k`, batch by batch of the site's texts, before any step."""
    for number in range(batches):
        task.zero_grad()
        task.loss(task.collate(site.train[number * BATCH : (number + 1) * BATCH]))[0].backward()
        parameters = {name: parameter for name, (parameter, _) in task.targets().items()}
        yield {
            name: orient(parameter.grad).clone() for name, parameter in parameters.items() if parameter.grad is not None
        }
