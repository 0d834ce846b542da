"""Which jobs a filter takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.state.job_filter import ALL, Facts, JobFilter
from coordinator.state.job_state import Status
from coordinator.state.labels import Labels
from tests.builders import a_job

FACTS = Facts.of(replace(a_job(10.0, name="Night-run"), labels=Labels(("b", "a", "b"))))


@pytest.mark.parametrize(
    ("parts", "taken"),
    [
        ({}, True),
        ({"statuses": {Status.PAUSED, Status.PENDING}}, True),
        ({"statuses": {Status.PAUSED}}, False),
        ({"name": "NIGHT"}, True),
        ({"name": "nightly"}, False),
        ({"methods": {"fedgalore", "fedit"}}, True),
        ({"methods": {"fedit"}}, False),
        ({"tags": {"a", "b"}}, True),
        ({"tags": {"a", "c"}}, False),
        ({"created_after": 9.0, "created_before": 11.0}, True),
        ({"created_after": 10.0}, False),
        ({"created_before": 10.0}, False),
    ],
)
def test_every_part_has_to_fit(parts: dict[str, Any], taken: bool) -> None:
    wanted = JobFilter(**{name: frozenset(part) if isinstance(part, set) else part for name, part in parts.items()})
    assert wanted.takes(FACTS) is taken
    assert (wanted == ALL) is (not parts)


def test_facts_are_read_as_they_were_written() -> None:
    assert Facts.stored("PENDING", 10.0, FACTS.to_json()) == FACTS
