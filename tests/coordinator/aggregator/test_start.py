"""A job that starts from a version of another job: prepared from real weights, or refused in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load, save

from coordinator.aggregator.worker import Aggregator
from coordinator.engine.assembly import Engine, assemble
from coordinator.state.job_state import Job, Status
from coordinator.state.round_state import ModelVersion
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_receipt, a_spec, blob_path, content_of, put_bytes, whole_version
from tests.fedgalore.conftest import tiny_bert  # noqa: F401  # a fixture
from tests.sites import all_fit

LONG_S = 30.0


class House:
    """An engine, its blobs, and an aggregator that works while the test waits."""

    def __init__(self, url: str, folder: Path, model: Path) -> None:
        self.engine: Engine = assemble(RedisStateStore(url))
        self.blobs = DirectoryBlobStore(folder)
        self._model = model

    async def posted(self, source: str | None = None, **model: Any) -> str:
        model = {"source": source or str(self._model), "num_labels": 2, **model}
        return (await self.engine.people.create(a_spec(model=model, rounds={"count": 3})))[0].id

    async def prepared(self, job_id: str) -> Job:
        """The job once it is prepared, or could not be."""
        stop = asyncio.Event()
        worker = asyncio.create_task(Aggregator(self.engine.aggregator, self.blobs).run(stop))
        async with asyncio.timeout(LONG_S):
            while (job := await self.engine.reader.job(job_id)).status is Status.PENDING:
                await self.engine.reader.wait_for_change(0.05)
        stop.set()
        await worker
        return job

    def weights(self, version: ModelVersion) -> dict[str, Any]:
        return load(content_of(self.blobs, version.weights.sha256))

    async def trained(self) -> tuple[Job, dict[str, Any]]:
        """A job whose first round has moved all its weights by a quarter, and the weights of version 1."""
        for client in "ab":
            await self.engine.agents.register(client, PROTOCOL_VERSION, "0.1", {"reviews": 20})
        job_id = await self.posted()
        await all_fit(self.engine)
        job = await self.prepared(job_id)
        assert job.model is not None
        moved = {name: values + 0.25 for name, values in self.weights(job.model).items()}
        blob = put_bytes(self.blobs, save(moved))
        for client in "ab":
            await self.engine.agents.report(job.id, 1, client, a_receipt(client))
        job = await self.engine.aggregator.aggregated(job.id, 1, whole_version(1, blob), {}, {})
        return job, moved


@pytest.fixture
async def house(redis_url: str, tmp_path: Path, tiny_bert: Path) -> AsyncIterator[House]:  # noqa: F811
    house = House(redis_url, tmp_path / "blobs", tiny_bert)
    yield house
    await house.engine.close()


@pytest.mark.slow
async def test_a_job_starts_from_the_version_that_it_names(house: House) -> None:
    old, moved = await house.trained()
    clone_id = await house.posted(f"job:{old.id}@1")
    await house.engine.people.cancel(old.id)
    clone = await house.prepared(clone_id)
    assert clone.status is Status.RUNNING, clone.reason
    assert clone.model is not None
    assert clone.model.version == 0
    start = house.weights(clone.model)
    assert start.keys() == moved.keys()
    for name, values in moved.items():
        assert_array_equal(start[name], values, err_msg=name)
    # It holds copies of its own: the old job can go, and the copy can be copied.
    await house.engine.people.delete(old.id, cancel=False, stored_bytes=house.blobs.stored_bytes)
    for _, blob in (*clone.ready().prepared.base_model, *clone.ready().prepared.export):
        assert house.blobs.holds(blob)
    another = await house.prepared(await house.posted(f"job:{clone_id}@0", num_labels=3))
    assert another.model is not None
    head, *_ = (values for name, values in house.weights(another.model).items() if name == "classifier.weight")
    assert head.shape[0] == 3  # another number of classes has a new head, as with any base model


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["job", "version"])
async def test_a_start_that_is_gone_is_refused_in_words(house: House, gone: str) -> None:
    old, _ = await house.trained()
    clone_id = await house.posted(f"job:{old.id}@1")
    if gone == "job":
        await house.engine.people.delete(old.id, cancel=True, stored_bytes=house.blobs.stored_bytes)
    else:
        blob_path(house.blobs, old.ready().model.weights.sha256).unlink()
    failed = await house.prepared(clone_id)
    assert failed.status is Status.FAILED
    assert failed.reason.startswith("model.source: ")
    assert ("does not exist" in failed.reason) == (gone == "job")
    assert failed.reason.endswith("post the job again with another source")
