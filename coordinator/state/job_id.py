"""Ids of jobs: they tell when the job was posted, so that a list can go on after a job that was deleted meanwhile."""

from __future__ import annotations

import re

_FORM = re.compile(r"job-(?P<made_ms>[0-9a-f]{11})-\w+", re.ASCII)


def new_id(now: float, token: str) -> str:
    """The id of a job that is posted at `now`, in seconds since the epoch; `token` tells it from others of the time."""
    return f"job-{int(now * 1000):011x}-{token}"


def posted_before(job_id: str) -> float | None:
    """A time in seconds since the epoch, at most a millisecond after the job was posted; None for what is no id."""
    match = _FORM.fullmatch(job_id)
    return (int(match["made_ms"], 16) + 1) / 1000 if match else None
