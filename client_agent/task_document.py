"""The texts of a task as values: its job's document and its plan, parsed once while tasks bring the same ones."""

from __future__ import annotations

import json
from functools import lru_cache

from client_agent.errors import CannotTrain
from fedgalore.spec.job import JobSpec, SpecError, read
from fedgalore.spec.plan import TrainingPlan


@lru_cache(maxsize=8)
def job_of(spec_json: str) -> JobSpec:
    """The job.

    Raises:
        CannotTrain: it is not JSON, or no job that this version of the agent knows.
    """
    try:
        return read(spec_json.encode(), "its document", is_json=True)
    except SpecError as error:
        raise _unknown("job", error) from None


@lru_cache(maxsize=8)
def plan_of(plan_json: str) -> TrainingPlan:
    """The plan.

    Raises:
        CannotTrain: it is not JSON, or no plan that this version of the agent knows.
    """
    try:
        return TrainingPlan.from_dict(json.loads(plan_json))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unknown("plan", error) from None


def _unknown(what: str, error: Exception) -> CannotTrain:
    words = str(error) if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
    return CannotTrain(f"this version of the agent does not know such a {what}; upgrade it ({words[:400]})")
