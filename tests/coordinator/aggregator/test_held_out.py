"""What the coordinator measures on a set that its operator holds out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.aggregator.worker import Aggregator
from coordinator.engine.assembly import Engine, assemble
from coordinator.settings import HeldOutSet
from coordinator.state.job_state import Job, Status
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.evaluation import evaluate
from fedgalore.model.task import TaskModel
from tests.builders import a_spec
from tests.fedgalore.conftest import sentences, tiny_bert  # noqa: F401  # a fixture

LONG_S = 60.0


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[Engine]:
    engine = assemble(RedisStateStore(redis_url))
    yield engine
    await engine.close()


def held_out(folder: Path, **columns: str) -> HeldOutSet:
    file = folder / "held-out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sentences(17, 5)))
    return HeldOutSet(file=file, **{"text": "text", "label": "label", **columns})


def spec_of(folder: Path, **sections: Any) -> Any:
    evaluation = {"central": "topics", "metrics": ["f1"], **sections.pop("evaluation", {})}
    model = {"source": str(folder), "num_labels": 3}
    return a_spec(model=model, evaluation=evaluation, method={"rank": 2, "state_sync": "reset"}, **sections)


async def prepared(engine: Engine, folder: Path, spec: Any, **sets: HeldOutSet) -> Job:
    """The job once the aggregator has prepared it, or has refused to."""
    job, _ = await engine.people.create(spec, None)
    stop = asyncio.Event()
    working = asyncio.create_task(Aggregator(engine.aggregator, DirectoryBlobStore(folder), False, sets).run(stop))
    async with asyncio.timeout(LONG_S):
        while (job := await engine.reader.job(job.id)).status is Status.PENDING:
            await engine.reader.wait_for_change(0.05)
    stop.set()
    await working
    return job


@pytest.mark.slow
async def test_the_first_version_is_measured_as_a_site_would(engine: Engine, tmp_path: Path, tiny_bert: Path) -> None:  # noqa: F811
    spec = spec_of(tiny_bert)
    job = await prepared(engine, tmp_path / "blobs", spec, topics=held_out(tmp_path))
    expected = evaluate(TaskModel.load(spec, tiny_bert), sentences(17, 5))
    result = job.ready().model.held_out
    assert result is not None
    assert (result.model_version, result.examples, result.counts) == (0, 17, expected.counts)
    assert result.metrics == expected.metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "columns", "words"),
    [
        ("topics", {"label": "class"}, "topics, .*held-out.jsonl.*class"),
        (
            "letters",
            {},
            r"holds out no data set 'topics' \(it holds out letters\); its operator adds it",
        ),
    ],
)
async def test_a_set_that_cannot_be_measured_fails_the_job_before_sites_are_asked(
    engine: Engine,
    tmp_path: Path,
    tiny_bert: Path,  # noqa: F811
    sets: str,
    columns: dict[str, str],
    words: str,
) -> None:
    job = await prepared(engine, tmp_path / "blobs", spec_of(tiny_bert), **{sets: held_out(tmp_path, **columns)})
    assert job.status is Status.FAILED
    assert re.match(f"evaluation.central: .*{words}", job.reason), job.reason


def test_versions_are_measured_as_often_as_clients_measure_them() -> None:
    spec = a_spec(evaluation={"central": "topics", "every": 2}, rounds={"count": 5})
    assert [spec.measures_centrally(version) for version in range(6)] == [True, False, True, False, True, True]
    ends_early = a_spec(evaluation={"central": "topics", "every": 2, "keep": {"metric": "loss", "patience": 1}})
    assert ends_early.measures_centrally(1)
    assert not a_spec().measures_centrally(0)
