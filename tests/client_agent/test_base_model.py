"""The base model's shards: found here, or fetched over a line that breaks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client_agent import progress, settings
from client_agent.assignment import SiteContext
from client_agent.base_model import base_model
from client_agent.cache import Cache
from client_agent.errors import NoRoom
from client_agent.site_log import SiteLog
from client_agent.training_thread import TrainingThread
from client_agent.transport import Transport
from coordinator.state.job_state import Prepared
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.job import JobSpec
from tests.builders import a_plan, a_spec, put_bytes, whole_version
from tests.client_agent.conftest import Coordinator
from tests.client_agent.test_agent import configure
from tests.client_agent.test_transport import connected, cutting, take_task

SHARD = 2 * 2**20
NAMES = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


async def a_job(coordinator: Coordinator) -> tuple[str, JobSpec, dict[str, BlobRef]]:
    """A job whose base model has two shards of random bytes."""
    contents = (b"{}", os.urandom(SHARD), os.urandom(SHARD))
    files = {name: put_bytes(coordinator.blobs, content) for name, content in zip(NAMES, contents, strict=True)}
    spec = a_spec(rounds={"count": 1, "min_clients": 1, "selection_wait_s": 0})
    job, _ = await coordinator.engine.people.create(spec)
    weights = files[NAMES[1]]
    listed = tuple(files.items())
    await coordinator.engine.aggregator.prepared(
        job.id, Prepared(a_plan().to_dict(), listed, listed, whole_version(0, weights))
    )
    return job.id, spec, files


def a_site(folder: Path, transport: Transport, **changes: object) -> SiteContext:
    chosen = settings.load(configure(folder, "127.0.0.1:1", **changes))
    return SiteContext(
        chosen, {}, Cache(chosen.work_dir), SiteLog(chosen.work_dir), transport, TrainingThread("cpu", 1)
    )


async def test_a_line_that_breaks_within_the_second_shard_costs_less_than_a_chunk(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    job_id, spec, files = await a_job(coordinator)
    async with cutting(coordinator.port, SHARD + SHARD // 2) as line, connected(line.address) as transport:
        await take_task(transport)
        site = a_site(tmp_path, transport)
        folder = await base_model(files, site, spec, a_plan(), job_id, 1)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == dict(
        zip(NAMES, (2, SHARD, SHARD), strict=True)
    )
    assert site.cache.has_model(files)
    assert line.down < 2 * SHARD + 2**20 + 2**16
    told = [entry["what"] for entry in logged if entry["event"] == "download_progress"]
    assert {f"{NAMES[2]}, file 3 of 3", f"{NAMES[1]}, file 2 of 3"} < set(told)


async def test_shards_that_lie_here_are_not_fetched_and_nothing_is_where_there_is_no_room(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, spec, files = await a_job(coordinator)
    near = tmp_path / "near"
    near.mkdir()
    with coordinator.blobs.on_disk(files[NAMES[1]].sha256) as shard:
        (near / "renamed.safetensors").write_bytes(shard.read_bytes())
    async with cutting(coordinator.port) as line, connected(line.address) as transport:
        await take_task(transport)
        site = a_site(tmp_path, transport, models=[str(near)])
        before = line.down
        with monkeypatch.context() as full:
            full.setattr("client_agent.room.free_bytes", lambda folder: SHARD)
            with pytest.raises(NoRoom, match=rf"has 2.1 MB free, and job {job_id} needs"):
                await base_model(files, site, spec, a_plan(), job_id, 1)
        assert line.down - before < 2**12  # what the line says by itself
        folder = await base_model(files, site, spec, a_plan(), job_id, 1)
        assert line.down - before < SHARD + 2**16
    assert (folder / NAMES[1]).resolve() == near / "renamed.safetensors"
