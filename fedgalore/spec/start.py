"""`job:JOB@VERSION` as a `model.source`: a job that starts from a version of another job of the same coordinator."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "job:"
_FORM = re.compile(rf"{PREFIX}(?P<job>[\w.-]{{1,64}})@(?P<version>\d{{1,9}})", re.ASCII)


class JobVersion(NamedTuple):
    job_id: str
    version: int


def job_version(source: str) -> JobVersion | None:
    """The version that a `model.source` names; None for a folder or the name of a model on a hub.

    Raises:
        ValueError: it begins with `job:` and names no version.
    """
    if not source.startswith(PREFIX):
        return None
    match = _FORM.fullmatch(source)
    if match is None:
        raise ValueError(
            f"{source[:100]} names no version of a job; write job:JOB@VERSION with the number of a version"
        )
    return JobVersion(match["job"], int(match["version"]))


def check_start(source: str) -> str:
    """Raises ValueError as `job_version` does; else the source itself."""
    job_version(source)
    return source
