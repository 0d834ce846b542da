"""Garbage collection: what a job needs stays, everything else goes, and nothing that is on its way."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.blob_store import DirectoryBlobStore
from coordinator.engine import Engine
from coordinator.garbage import GRACE_S, KEEP_VERSIONS, collect
from coordinator.job import Prepared
from coordinator.round import BlobRef, ModelVersion, UpdateReceipt
from coordinator.state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_plan, a_spec

ROUNDS = KEEP_VERSIONS + 2


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[Engine]:
    engine = Engine(RedisStateStore(redis_url))
    yield engine
    await engine.close()


async def test_what_jobs_need_stays_and_the_rest_goes(engine: Engine, tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path)

    def put(text: str) -> BlobRef:
        return blobs.put_bytes(text.encode())

    def version(number: int) -> ModelVersion:
        return ModelVersion(number, put(f"weights {number}"), put(f"aggregate {number}"), put(f"state {number}"))

    base, export = put("base"), put("export")
    first = ModelVersion(0, put("weights 0"))
    job, _ = await engine.create(a_spec(rounds={"count": ROUNDS + 1, "min_clients": 1}))
    await engine.prepared(job.id, Prepared(a_plan().to_dict(), (("a", base),), (("a", export),), first))
    await engine.register("north", PROTOCOL_VERSION, "0", {"reviews": 10})
    closed, versions = [], [first]
    for number in range(1, ROUNDS + 1):
        await engine.tick(job.id)
        update = put(f"update {number}")
        await engine.report(job.id, number, "north", UpdateReceipt(update, 10, {}, 0.0))
        versions.append(version(number))
        await engine.aggregated(job.id, number, versions[-1], {}, {})
        closed.append(update)
    await engine.tick(job.id)
    flying = put("update in flight")
    await engine.report(job.id, ROUNDS + 1, "north", UpdateReceipt(flying, 10, {}, 0.0))
    stray = put("stray")

    assert await collect(engine, blobs, time.time()) == 0  # all of it is young
    assert await collect(engine, blobs, time.time() + GRACE_S + 1) > 0

    newest = versions[-1]
    kept = [base, export, flying, first.weights, *(one.weights for one in versions[-KEEP_VERSIONS:])]
    kept += [part for part in (newest.aggregate, newest.state) if part]
    gone = [stray, *closed, versions[1].weights, *(one.state for one in versions[1:-1] if one.state)]
    assert [blob for blob in kept if not blobs.exists(blob.sha256)] == []
    assert [blob for blob in gone if blobs.exists(blob.sha256)] == []


async def test_a_blob_put_again_is_young_again(engine: Engine, tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path)
    blob = blobs.put_bytes(b"as before")
    now = time.time() + GRACE_S + 1
    path = blobs.path(blob.sha256)
    os.utime(path, (0, 0))
    blobs.put_bytes(b"as before")
    assert path.stat().st_mtime > 0
    assert await collect(engine, blobs, time.time()) == 0
    assert await collect(engine, blobs, now) == len(b"as before")


def test_scratch_of_a_killed_process_goes(tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path)
    left = tmp_path / "scratch" / "left"
    left.mkdir()
    (left / "blob").write_bytes(b"half")
    assert blobs.sweep((), GRACE_S, time.time()) == 0
    assert left.exists()
    blobs.sweep((), GRACE_S, time.time() + GRACE_S + 1)
    assert not left.exists()
