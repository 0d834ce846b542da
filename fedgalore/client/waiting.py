"""How a client waits: for a job to end, and for a coordinator that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fedgalore.client import calls, shapes
from fedgalore.client.answers import parsed
from fedgalore.client.errors import TimedOut, Unreachable
from fedgalore.client.flow import Ask, Flow, Pause

TIMEOUT_S = 15.0  # of silence in an answer
POLL_S = 1.0
MOST_POLL_S = 5.0  # between two looks at a job that has been waited for long
PATIENCE_S = 600.0  # an upgraded coordinator, or a machine that restarts, comes back well before
FIRST_PATIENCE_S = 10.0  # as long as nothing was heard, the address may be wrong

T = TypeVar("T")
OnAway = Callable[[Unreachable, float], None]
OnBack = Callable[[], None]


def poll_s(waited_s: float) -> float:
    """Seconds until the next look at what was waited for so long already."""
    return min(MOST_POLL_S, max(POLL_S, waited_s / 60))


class Patience:
    """Bears a coordinator that does not answer, for so long.

    Args:
        on_away: called when it is first missed, with the error and the seconds that are borne.
        on_back: called when it answers again.
    """

    def __init__(self, on_away: OnAway | None = None, on_back: OnBack | None = None) -> None:
        self._on_away, self._on_back = on_away, on_back
        self._seconds = FIRST_PATIENCE_S
        self._since: float | None = None

    def lost(self, error: Unreachable) -> None:
        """
        Raises:
            Unreachable: the error, when it has lasted too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if self._on_away is not None:
                self._on_away(error, self._seconds)
        elif now - self._since > self._seconds:
            raise error

    def heard(self) -> None:
        """It answers."""
        if self._since is not None and self._on_back is not None:
            self._on_back()
        self._since, self._seconds = None, PATIENCE_S


def patiently(ask: Callable[[], T], patience: Patience) -> T:
    """What `ask` returns, asked again while nobody answers.

    Raises:
        Unreachable: it has lasted too long.
    """
    while True:
        try:
            answer = ask()
        except Unreachable as error:
            patience.lost(error)
            time.sleep(POLL_S)
        else:
            patience.heard()
            return answer


def wait(
    job_id: str, timeout_s: float | None, on_change: Callable[[shapes.Job], None] | None, patience: Patience
) -> Flow[shapes.Job]:
    """Until the job has ended or is paused.

    Args:
        on_change: called with the job when its status or its rounds_done has changed, and first with what it is.

    Raises:
        TimedOut
    """
    begun = time.monotonic()
    until = float("inf") if timeout_s is None else begun + timeout_s
    status, done = "not known yet", None
    while True:
        silence_s = min(TIMEOUT_S, max(until - time.monotonic(), POLL_S))
        try:
            job = parsed(shapes.Job, (yield Ask("GET", calls.job_path(job_id), timeout_s=silence_s)))
        except Unreachable as error:
            patience.lost(error)
        else:
            patience.heard()
            if (job.status, job.rounds_done) != (status, done) and on_change is not None:
                on_change(job)
            status, done = job.status, job.rounds_done
            if job.has_ended:
                return job
        left_s = until - time.monotonic()
        if timeout_s is not None and left_s <= 0:
            raise TimedOut(job_id, status, timeout_s)
        yield Pause(min(poll_s(time.monotonic() - begun), left_s))
