"""Jobs in Redis while two releases share it: what the older one would lose it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from coordinator.state import formats
from coordinator.state.formats import NewerFormat
from coordinator.state.job_state import Job
from coordinator.state.round_state import Round
from fedgalore.spec.job import JobSpec
from tests.builders import a_job

FIELDS = Path(__file__).with_name("stored-fields.json")


def stored_fields() -> dict[str, list[str]]:
    """The fields of all that is stored of a job, by class."""
    found: dict[str, list[str]] = {}
    for kind in (Job, Round, JobSpec):
        schema: dict[str, Any] = TypeAdapter(kind).json_schema(mode="serialization")
        for name, part in {kind.__name__: schema, **schema.get("$defs", {})}.items():
            found[name] = sorted(part.get("properties", part.get("enum", ())))
    return dict(sorted(found.items()))


def test_a_new_field_raises_the_format() -> None:
    """Whoever adds one says in `coordinator.state.formats` by what a job is known to use it, and enters it here."""
    held = json.loads(FIELDS.read_text())
    assert held == {"format": formats.FORMAT, "fields": stored_fields()}, (
        "raise FORMAT of coordinator/state/formats.py unless it was raised since the last release, say in NEEDS which "
        "jobs use the new field, and write this into "
        f"{FIELDS.name}: {json.dumps({'format': formats.FORMAT + 1, 'fields': stored_fields()})}"
    )
    assert set(formats.NEEDS) == set(range(2, formats.FORMAT + 1))


def test_a_job_is_stored_in_the_lowest_format_that_knows_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, old = a_job(0.0), formats.FORMAT
    monkeypatch.setattr(formats, "FORMAT", old + 2)
    monkeypatch.setattr(
        formats, "NEEDS", {**formats.NEEDS, old + 1: lambda job: job.missing != "", old + 2: lambda job: False}
    )
    new = plain.to_json().replace('"missing":""', '"missing":"x"')
    written = Job.from_json(new).to_json()
    assert json.loads(written)["format"] == old + 1
    assert Job.from_json(plain.to_json()) == plain  # which the release before reads as well
    assert json.loads(plain.to_json())["format"] <= old

    monkeypatch.setattr(formats, "FORMAT", old)
    assert Job.from_json(plain.to_json()) == plain
    for document in (written, written.replace('"status":"PENDING"', '"status":"DREAMING"')):
        with pytest.raises(NewerFormat, match=f"its format is {old + 1}, and this release reads formats up to {old}"):
            Job.from_json(document)
    with pytest.raises(ValueError, match="DREAMING"):
        Job.from_json(plain.to_json().replace('"status":"PENDING"', '"status":"DREAMING"'))
