"""How commands follow a job: they look again and again, wait for a coordinator that is away, and end as it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fedgalore_cli.errors import fail, stop, told
from fedgalore_cli.exits import OF_JOBS, Exit
from fedgalore_cli.output import note

if TYPE_CHECKING:
    from fedgalore.client import Client, Job, Round, Unreachable

T = TypeVar("T")


def end(job: Job) -> None:
    """Ends the command with the exit status of a job that has ended; returns for one that is complete."""
    if (status := OF_JOBS[job.status]) is not Exit.OK:
        fail(f"job {job.id} is {job.status}: {job.reason}", status)


@contextmanager
def interruptible(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the command in a line. The job is not the command's, and goes on."""
    try:
        yield
    except KeyboardInterrupt:
        stop(f"stopped looking; job {job_id} goes on")


def on_away(error: Unreachable, patience_s: float) -> None:
    """Says that the coordinator is missed."""
    note(f"{told(error)}; trying again for {patience_s:g} s")


def on_back() -> None:
    """Says that it answers again."""
    note("the coordinator answers again")


class Follower:
    """Looks at one job and its rounds; waits between two looks, and while the coordinator is away."""

    def __init__(self, client: Client, job_id: str) -> None:
        from fedgalore.client.waiting import Patience

        self._client, self._id = client, job_id
        self._patience = Patience(on_away, on_back)
        self._begun = time.monotonic()
        self._closed: list[Round] = []  # they do not change any more

    def job(self) -> Job:
        """The job as it is."""
        return self._asked(lambda: self._client.job(self._id))

    def rounds(self) -> list[Round]:
        """The job's rounds. Ask for the job first: the rounds of a job that has ended do not change any more."""
        after = self._closed[-1].number if self._closed else 0
        rounds = self._closed + self._asked(lambda: self._client.rounds(self._id, after=after))
        self._closed = [each for each in rounds if each.is_closed]
        return rounds

    def wait(self) -> None:
        """Until the next look."""
        from fedgalore.client import waiting

        time.sleep(waiting.poll_s(time.monotonic() - self._begun))

    def _asked(self, ask: Callable[[], T]) -> T:
        from fedgalore.client.waiting import patiently

        return patiently(ask, self._patience)
