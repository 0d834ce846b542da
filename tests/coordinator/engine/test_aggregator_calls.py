"""Reports of the aggregator about its work, sent once or twice."""

from __future__ import annotations

import pytest

from coordinator.engine.assembly import Engine
from coordinator.state.errors import (
    RoundClosed,
)
from coordinator.state.job_state import Status
from tests.builders import a_prepared, a_spec, a_version
from tests.coordinator.engine.federation import Federation


async def test_the_aggregator_may_tell_everything_twice(federation: Federation, engine: Engine) -> None:
    job_id = await federation.running()
    await engine.aggregator.prepared(job_id, a_prepared())
    await federation.committed(job_id)
    before = await engine.reader.job(job_id)
    again = await engine.aggregator.aggregated(job_id, 1, a_version(1), {"other": 1.0}, {})
    assert (again.model, again.round, again.rounds_opened) == (before.model, before.round, 2)
    with pytest.raises(RoundClosed):
        await engine.aggregator.aggregation_failed(job_id, 1, "late")
    job, _ = await engine.people.create(a_spec())
    assert (await engine.aggregator.preparation_failed(job.id, "model.source: no such folder")).status is Status.FAILED
