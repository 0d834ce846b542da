"""A real coordinator on a real Redis behind its REST door, and an engine beside it by which a test moves jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np

from coordinator.engine.assembly import Engine
from coordinator.state.job_events import LoadedBack
from coordinator.state.job_state import Job, Prepared
from coordinator.state.records import RoundTask
from coordinator.state.round_state import ModelVersion
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.spec.plan import TrainingPlan
from protos.codec import SafetensorsWriter
from tests.builders import a_plan, a_receipt, a_result, a_spec, put_bytes, whole_version
from tests.sites import all_fit

JOBS = "/api/v1/jobs"


class Stack:
    """A coordinator, a client of its REST door, and an engine beside it that plays agents and aggregator."""

    def __init__(self, http: httpx.AsyncClient, engine: Engine, blobs: DirectoryBlobStore) -> None:
        self.http, self.engine, self.blobs = http, engine, blobs

    async def post(self, document: Any, **headers: str) -> httpx.Response:
        return await self.http.post(JOBS, json=document, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def running(self, folder: Path, **sections: Any) -> Job:
        """A prepared job whose first round is under way with the agents a and b."""
        await self.enrolled()
        job, _ = await self.engine.people.create(a_spec(**sections), None)
        return await self.started(job.id, folder)

    async def enrolled(self) -> None:
        """The agents a and b are there."""
        for name in ("a", "b"):
            await self.engine.agents.register(name, PROTOCOL_VERSION, "0.1.0", {"reviews": 20})

    async def started(self, job_id: str, folder: Path) -> Job:
        """A posted job gets its model, and its first round begins."""
        await all_fit(self.engine)
        model = self.version(folder, 0)
        export = (("config.json", put_bytes(self.blobs, b"{}")), ("model.safetensors", model.weights))
        return await self.engine.aggregator.prepared(job_id, Prepared(a_plan().to_dict(), export, export, model))

    def version(self, folder: Path, number: int) -> ModelVersion:
        specs = TrainingPlan.from_dict(a_plan().to_dict()).weights()
        path = folder / f"weights-{number}"
        with SafetensorsWriter(path, specs, {}) as writer:
            for name, spec in specs.items():
                writer.write(name, np.full(spec.shape, number, dtype=np.float32))
        return whole_version(number, self.blobs.put_file(path))

    async def next_tasks(self, kind: str) -> int:
        """Both agents take their task; returns the round's number."""
        for name in ("a", "b"):
            task = await self.engine.agents.next_task(name, wait_s=10)
            assert isinstance(task, RoundTask)
            assert task.round.kind == kind
        return task.round.number

    async def evaluated(self, job: Job, number: int, version: int) -> None:
        for name, examples, accuracy in (("a", 30, 0.9), ("b", 10, 0.5)):
            result = a_result(version, examples, loss=0.25, accuracy=accuracy)
            await self.engine.agents.evaluated(job.id, number, name, result)

    async def trained(self, job: Job, folder: Path, version: int) -> int:
        """One round from its tasks to its commit; returns its number."""
        number = await self.next_tasks("train")
        await self.evaluated(job, number, version - 1)
        for name in ("a", "b"):
            await self.engine.agents.count_traffic(job.id, number, name, "up", 100)
            await self.engine.agents.count_traffic(job.id, number, name, "down", 300)
            await self.engine.agents.report(job.id, number, name, a_receipt(f"{name} {number}"))
        await self.engine.aggregator.aggregated(
            job.id, number, self.version(folder, version), {"compute_s": 0.1}, {"rank": 2.0}
        )
        return number

    async def completed(self, folder: Path) -> Job:
        """A job of one round that has run to its end."""
        job = await self.running(folder, rounds={"count": 1})
        await self.trained(job, folder, 1)
        await self.evaluated(job, await self.next_tasks("evaluate"), 1)
        return await self.engine.aggregator.loaded_back(job.id, LoadedBack(1))


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    shown: dict[str, Any] = answer.json()
    assert (answer.status_code, shown["status"], shown["code"]) == (status, status, code)
    assert shown["type"] == f"urn:fedgalore:problem:{code}"
    assert shown["title"]
    assert shown["detail"]
    return shown
