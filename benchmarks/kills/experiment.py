"""One experiment: a job runs, something is killed in the middle of its second round, and the job is watched to its end.

Each system has its own kind of run. What is done to a run, and how it is reported, is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

ROUNDS = 4
CLIENTS = 2
KILLED_IN = 2  # the round
DOWN_S = 1.0  # between a death and the restart of what died
POLL_S = 0.1


class Missed(RuntimeError):
    """The moment for the kill did not come, or was over too soon; the message says what was seen."""


@dataclass(frozen=True)
class RoundEnd:
    """The end of a round; `clients` counts the updates that are in its model, `at` is Unix time."""

    number: int
    clients: int
    at: float


@dataclass(frozen=True)
class State:
    """Where a job stands, in the system's own words (`status`); `redone` rounds were given up and begun anew."""

    status: str
    over: bool = False
    completed: bool = False
    rounds: Sequence[RoundEnd] = ()
    redone: int = 0


class Run(Protocol):
    """A running system with one job."""

    def begin(self) -> None:
        """Hands the job in."""

    def ripe(self) -> bool:
        """Whether the moment for the kill is here."""

    def kill(self) -> None: ...

    def restart(self) -> None:
        """Starts again what was killed."""

    def state(self) -> State: ...

    def digest(self) -> str:
        """A hash of the bits of the completed job's weights."""


@dataclass(frozen=True)
class Experiment:
    """`start` gives a fresh system; `killed` is empty for the undisturbed run."""

    system: str
    isolation: str
    killed: str
    when: str
    restarted_by: str  # HAND, a process of the system, or NOBODY: the system should have, and did not
    start: Callable[[], AbstractContextManager[Run]] = field(repr=False, compare=False)


HAND, NOBODY = "hand", "nobody"


@dataclass(frozen=True)
class Outcome:
    """What became of the job; times are Unix times. Without a state the experiment failed, and `problem` says why."""

    state: State | None
    digest: str = ""
    disturbed_at: float | None = None  # the restart by hand, else the death
    over_at: float | None = None
    problem: str = ""


def perform(experiment: Experiment, deadline_s: float, stop: Event) -> Outcome:
    """Runs the experiment; a job that is not over `deadline_s` after the restart is reported as it stands then."""
    try:
        with experiment.start() as run:
            return _watched(experiment, run, deadline_s, stop)
    except Exception as error:  # the other experiments go on
        return Outcome(None, problem=" ".join(f"{type(error).__name__}: {error}".split()))


def _watched(experiment: Experiment, run: Run, deadline_s: float, stop: Event) -> Outcome:
    run.begin()
    disturbed_at = _disturbed(experiment, run, deadline_s, stop) if experiment.killed else None
    end = time.monotonic() + deadline_s
    while not (state := run.state()).over and _goes_on(end, stop):
        pass
    over_at = time.time() if state.over else None
    return Outcome(state, run.digest() if state.completed else "", disturbed_at, over_at)


def _disturbed(experiment: Experiment, run: Run, deadline_s: float, stop: Event) -> float:
    end = time.monotonic() + deadline_s
    while not run.ripe():
        if not _goes_on(end, stop):
            raise Missed(f"the moment for the kill did not come; the job is {run.state().status}")
    run.kill()
    disturbed_at = time.time()
    if experiment.restarted_by == HAND:
        time.sleep(DOWN_S)
        disturbed_at = time.time()
        run.restart()
    return disturbed_at


def _goes_on(end: float, stop: Event) -> bool:
    """Waits a little; whether to go on."""
    return not stop.wait(POLL_S) and time.monotonic() < end


# --- the report ----------------------------------------------------------------------------------------------

Row = dict[str, Any]
HEAD = {
    "system": "system",
    "isolation": "isolation",
    "killed": "killed",
    "when": "when",
    "restarted_by": "started again by",
    "completed": "completed",
    "clients": "clients in each round",
    "lost": "rounds lost",
    "redone": "rounds redone",
    "same_weights": "same weights",
    "to_progress_s": "s to the next round's end",
    "over_s": "s to the job's end",
    "status": "status reported",
}


def row(experiment: Experiment, outcome: Outcome, undisturbed: str) -> Row:
    """A row of the table and of the file. `undisturbed`: digest of the system's undisturbed run, empty without one.

    Rounds are lost when the job ends without a model: a new job begins at round 1. Seconds count from the restart by
    hand, or else from the death; in the undisturbed run they count from the end of the first round.
    """
    cells: Row = {name: getattr(experiment, name) for name in ("system", "isolation", "killed", "when", "restarted_by")}
    cells["killed"] = experiment.killed or "nothing"
    state = outcome.state
    if state is None:
        return cells | dict.fromkeys(list(HEAD)[5:-1]) | {"status": outcome.problem}
    since = outcome.disturbed_at or (state.rounds[0].at if state.rounds else None)
    later = [end.at for end in state.rounds if since is not None and end.at > since]
    return cells | {
        "completed": state.completed,
        "clients": [end.clients for end in state.rounds],
        "lost": 0 if state.completed or not state.over else len(state.rounds),
        "redone": state.redone,
        "same_weights": outcome.digest == undisturbed if experiment.killed and outcome.digest and undisturbed else None,
        "to_progress_s": _seconds(since, min(later, default=None)),
        "over_s": _seconds(since, outcome.over_at),
        "status": state.status if state.over else f"{state.status}, still so when the watch was ended",
    }


def _seconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 1)


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = [list(HEAD.values()), ["---"] * len(HEAD), *([_shown(entry[name]) for name in HEAD] for entry in rows)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return "" if value is None else str(value)
