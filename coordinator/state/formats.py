"""In which format jobs are stored, so that a release works beside the one before on one Redis.

A release reads every format up to `FORMAT`. What it does not know in a document it would lose when it writes the next
one, so each document names the lowest format that knows all that is in it. A job that uses nothing new stays in the
format that both releases read. One that does is left alone by the older release, whose callers go on to a replica that
is upgraded.

With a new field of a job, a round or the job document: raise `FORMAT`, once between releases, and say in `NEEDS` by
what a job is known to use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.state.job_state import Job

FORMAT = 2
NEEDS: Mapping[int, Callable[[Job], bool]] = {  # by format, whether a job has something in it that came with it
    2: lambda job: job.team != "",
}


class NewerFormat(ValueError):
    """A newer release has written the document."""

    def __init__(self, job_format: int) -> None:
        super().__init__(f"its format is {job_format}, and this release reads formats up to {FORMAT}")


def needed(job: Job) -> int:
    """The lowest format that knows all that is in the job."""
    return max((number for number, uses in NEEDS.items() if uses(job)), default=1)


def check(job_format: object) -> None:
    """Raises `NewerFormat` for a document of a newer release."""
    if isinstance(job_format, int) and job_format > FORMAT:
        raise NewerFormat(job_format)
