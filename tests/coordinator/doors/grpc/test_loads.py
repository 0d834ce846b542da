"""Each call of the agents' door reads a job once. A long upload also reads it in the compare-and-set at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protos import federation_pb2 as pb
from tests.builders import an_evaluation
from tests.coordinator.doors.grpc.door import BIG, House, open_house
from tests.coordinator.doors.grpc.updates import ref
from tests.coordinator.doors.loads import counted


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path) as house:
        yield house


async def test_uploads(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    with counted(monkeypatch) as loads:
        await house.query(sample, ref(content))
    assert len(loads) == 1
    with counted(monkeypatch) as loads:
        await house.submit(sample, content)
    assert len(loads) == 2
    for again in (house.submit(sample, content), house.query(sample, ref(content))):
        with counted(monkeypatch) as loads:
            await again
        assert len(loads) == 1


async def test_tasks_and_downloads(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await house.round()
    with counted(monkeypatch) as loads:
        assert (await house.poll("site-a")).HasField("task")
    assert len(loads) == 1
    with counted(monkeypatch) as loads:
        await house.download("site-a", ref(BIG).sha256, job_id=job.id, round=1)
    assert len(loads) == 1


async def test_progress(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await house.round()

    async def loads_of(expected: int, go_on: bool, client: str = "site-a", number: int = 1, **fields: object) -> None:
        request = pb.ReportProgressRequest(client=client, job_id=job.id, round=number, stage="train", **fields)
        with counted(monkeypatch) as loads:
            assert (await house.stub.ReportProgress(request)).go_on == go_on
        assert len(loads) == expected

    await loads_of(0, True)
    await loads_of(1, True, evaluation=an_evaluation())
    await loads_of(1, False, client="site-c")  # not selected
    await house.engine.people.forget_agent("site-c")  # it would step in
    await loads_of(1, False, failure="no memory", client="site-b")  # ends the round
    await loads_of(1, False, evaluation=an_evaluation())
