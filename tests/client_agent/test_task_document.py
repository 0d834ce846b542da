"""What a task's texts are to an agent that does not know them: a sentence, whichever coordinator they come from."""

from __future__ import annotations

import json

import pytest

from client_agent.errors import CannotTrain
from client_agent.task_document import job_of, plan_of
from tests.builders import a_plan, a_spec

PLANS = ["", "{", "[]", "null", "[" * 10_000, "{}", '{"targets": 3}', '{"targets": [{"a": 1}]}']
NEWER = json.dumps({**a_spec().model_dump(mode="json"), "colour": "red"})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10_000, NEWER, '{"name": "\\ud800"}', "1" * 5000])
def test_a_job_that_this_version_does_not_know_is_said_to_be_so(text: str) -> None:
    with pytest.raises(CannotTrain, match=r"^this version of the agent does not know such a job; upgrade it \("):
        job_of(text)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 10_000, "{}", '{"targets": 3}', '{"targets": [{"a": 1}]}']
)
def test_a_plan_that_this_version_does_not_know_is_said_to_be_so(text: str) -> None:
    with pytest.raises(CannotTrain, match=r"^this version of the agent does not know such a plan; upgrade it \("):
        plan_of(text)


def test_texts_that_are_known_are_read() -> None:
    spec, plan = a_spec(), a_plan()
    assert job_of(json.dumps(spec.model_dump(mode="json"))) == spec
    assert plan_of(json.dumps(plan.to_dict())) == plan
