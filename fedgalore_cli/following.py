"""How commands follow a job: they look again and again, wait for a coordinator that is away, and end as the job does.

| exit status | the job |
|---|---|
| 0 | is COMPLETED |
| 1 | is FAILED, or the command itself could not go on: the line on stderr says which |
| 3 | is PAUSED: a person has to act, and to resume it |
| 4 | is CANCELLED |
| 5 | has not come to any of these within `--timeout` |
| 130 | goes on; the command was stopped by Ctrl-C |
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from fedgalore_cli.client import TIMEOUT_S, Coordinator, RequestRefused, Unreachable, job_path, rounds_of
from fedgalore_cli.errors import fail

POLL_S = 1.0
PATIENCE_S = 600.0  # an upgraded coordinator, or a machine that restarts, comes back well before
FIRST_PATIENCE_S = 10.0  # as long as nothing was heard, the address may be wrong
TIMED_OUT = 5
INTERRUPTED = 130
CLOSED = ("COMMITTED", "ABANDONED")
STATUSES = {"COMPLETED": 0, "FAILED": 1, "PAUSED": 3, "CANCELLED": 4}


def has_ended(job: dict[str, Any]) -> bool:
    """Whether nothing more happens to the job unless a person acts."""
    return job["status"] in STATUSES


def end(job: dict[str, Any]) -> None:
    """Ends the command with the exit status of a job that has ended; returns for one that is complete."""
    if status := STATUSES[job["status"]]:
        fail(f"job {job['id']} is {job['status']}: {job['reason']}", status)


@contextmanager
def interruptible(job_id: str) -> Iterator[None]:
    """Ctrl-C ends the command in a line. The job is not the command's, and goes on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped looking; job {job_id} goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None


class Follower:
    """Looks at one job. Waits between two looks and while the coordinator is away; a time limit ends the command."""

    def __init__(self, coordinator: Coordinator, job_id: str, timeout_s: float | None = None) -> None:
        self._coordinator = coordinator
        self._id = job_id
        self._timeout_s = timeout_s
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._patience_s = FIRST_PATIENCE_S
        self._status = "not known yet"
        self._closed: list[dict[str, Any]] = []  # rounds, which do not change any more

    def job(self) -> dict[str, Any]:
        """The job as it is."""
        job: dict[str, Any] = self._ask("")
        self._status = job["status"]
        return job

    def rounds(self) -> list[dict[str, Any]]:
        """The job's rounds. Ask for the job first: the rounds of a job that has ended do not change any more."""
        rounds = self._closed + rounds_of(self._ask, self._closed[-1]["number"] if self._closed else 0)
        self._closed = [each for each in rounds if each["phase"] in CLOSED]
        return rounds

    def wait(self) -> None:
        """Until the next look; ends the command where the time is over."""
        left = self._left_s()
        if left <= 0:
            fail(f"--timeout: job {self._id} is {self._status} after {self._timeout_s:g} s, and goes on", TIMED_OUT)
        time.sleep(min(POLL_S, left))

    def _left_s(self) -> float:
        return float("inf") if self._until is None else self._until - time.monotonic()

    def _ask(self, part: str) -> Any:
        away_since: float | None = None
        while True:
            silence_s = min(TIMEOUT_S, max(self._left_s(), POLL_S))
            try:
                answer = self._coordinator.try_to_ask("GET", job_path(self._id) + part, timeout=silence_s)
            except RequestRefused as error:
                fail(str(error))
            except Unreachable as error:
                if away_since is None:
                    away_since = time.monotonic()
                    typer.echo(f"{error}; trying again for {self._patience_s:g} s", err=True)
                elif time.monotonic() - away_since > self._patience_s:
                    fail(str(error))
                self.wait()
            else:
                if away_since is not None:
                    typer.echo("the coordinator answers again", err=True)
                self._patience_s = PATIENCE_S
                return answer
