"""Trackers that fail, are slow, or are away: the job waits for none of them, and nothing is lost or told twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fedgalore.tracking import End, Run, Step, TrackerError, Tracking, feeding
from fedgalore.tracking.sink import Fetch, package
from tests.fedgalore.tracking.test_mapping import row

RUN = Run("a", "wards", {})


class Kept:
    """A tracker in memory, whose first `failures` calls fail and which waits for `gate`."""

    name, where = "Kept", "memory"

    def __init__(self, has: int = 0, failures: int = 0) -> None:
        self.has, self.failures = has, failures
        self.gate = threading.Event()
        self.gate.set()
        self.rounds: list[int] = []
        self.ended: list[str] = []
        self.versions: list[tuple[int, Path]] = []

    def open(self, run: Run) -> int:
        return self.has

    def log(self, step: Step) -> None:
        self._done()
        self.rounds.append(step.number)

    def model(self, version: int, fetch: Fetch) -> None:
        self._done()
        self.versions.append((version, fetch()))

    def end(self, end: End) -> None:
        self._done()
        self.ended.append(end.status)

    def _done(self) -> None:
        self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise OSError("the line\nbroke")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "FIRST_PAUSE_S", 0.0)


def rows(*numbers: int) -> list[dict[str, object]]:
    return [row(number, None, "evaluation", "loss", 0.5) for number in numbers]


def test_what_fails_is_done_again_in_order_and_said_once() -> None:
    kept, said = Kept(failures=2), list[str]()
    with Tracking(RUN, [kept], said.append) as tracking:
        for number in (1, 2, 3):
            tracking.log(rows(number))
        tracking.model(3, lambda: Path("model"))
    assert (kept.rounds, kept.versions, kept.ended) == ([1, 2, 3], [(3, Path("model"))], ["COMPLETED"])
    assert said == ["Kept does not take what it gets (the line broke); trying again", "Kept takes it again"]


def test_a_tracker_gets_what_it_lacks() -> None:
    kept, fresh = Kept(has=2), Kept()
    with Tracking(RUN, [kept, fresh]) as tracking:
        tracking.log(rows(1, 2, 3))
        tracking.log(rows(3, 4))
    assert (kept.rounds, fresh.rounds) == ([3, 4], [1, 2, 3, 4])


def test_nobody_waits_for_a_tracker_that_stands_still() -> None:
    slow, quick = Kept(), Kept()
    slow.gate.clear()
    tracking = Tracking(RUN, [slow, quick], patience_s=0.1)
    started = time.monotonic()
    tracking.log(rows(1))
    with pytest.raises(TrackerError, match=r"^Kept has not taken everything \(it is slow\)$"):
        tracking.end(End("COMPLETED"))
    assert time.monotonic() - started < 30
    assert (slow.rounds, quick.rounds, quick.ended) == ([], [1], ["COMPLETED"])
    slow.gate.set()


@pytest.mark.parametrize(("error", "status"), [(ValueError("no room"), "FAILED"), (KeyboardInterrupt(), "CANCELLED")])
def test_how_a_simulation_ends_is_told(error: BaseException, status: str) -> None:
    kept = Kept()

    def simulated() -> None:
        with Tracking(RUN, [kept]) as tracking:
            tracking.log(rows(1))
            raise error

    with pytest.raises(type(error)):
        simulated()
    assert (kept.rounds, kept.ended) == ([1], [status])


class Closed(Kept):
    def open(self, run: Run) -> int:
        raise OSError("no such server")


def test_a_tracker_that_cannot_be_used_is_refused_at_the_start() -> None:
    with pytest.raises(TrackerError, match=r"Kept cannot be used \(no such server\); correct its settings"):
        Tracking(RUN, [Closed()])


def test_a_run_that_goes_on_without_a_tracker_is_logged_to_the_others() -> None:
    kept, said = Kept(), list[str]()
    with Tracking(RUN, [Closed(), kept], said.append, without=True) as tracking:
        tracking.log(rows(1))
    assert (kept.rounds, kept.ended) == ([1], ["COMPLETED"])
    (words,) = said
    assert words.startswith("wards: Kept cannot be used (no such server)") and words.endswith("goes on without")


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(TrackerError, match=r"W&B needs .*\(nosuchthing\); run: pip install 'fedgalore\[wandb\]'"):
        package("nosuchthing.parts", "wandb", "W&B")
