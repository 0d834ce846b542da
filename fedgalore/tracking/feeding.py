"""Hands rounds to trackers, each in a thread of its own: no tracker waits for another, and no job for any of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from threading import Thread
from types import TracebackType

from fedgalore.tracking.mapping import End, Row, Run, Step, Steps
from fedgalore.tracking.sink import Fetch, Sink, TrackerError

Act = Callable[[Sink], None]
Tell = Callable[[str], None]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # between two tries
PATIENCE_S = 60.0
SHORTLY_S = 5.0  # of somebody who wants to leave
_LONGEST_REASON = 300  # characters of what a tracker's package says


class Tracking:
    """One job's rounds on their way to trackers. As a context manager it is for a simulation:

    ```python
    with Tracking(Run("2026-01-31", spec.name, spec.model_dump(mode="json")), [TensorBoard("runs")]) as tracking:
        simulate(spec, folder, sites, on_round=lambda record: tracking.log(record.metrics(spec)))
    ```

    Attributes:
        facts: what tells the result of a simulation, such as its best version; goes along with its end.

    Args:
        tell: called with a sentence when a tracker does not take what it gets, which is tried again, and when it does
            once more; from another thread.
        patience_s: how long the end is waited for.
        without: leaves out a tracker that cannot be used, which is told, in place of an error.

    Raises:
        TrackerError: a tracker cannot be reached or used, now, at the start.
    """

    def __init__(
        self,
        run: Run,
        sinks: Sequence[Sink],
        tell: Tell | None = None,
        patience_s: float = PATIENCE_S,
        *,
        without: bool = False,
    ) -> None:
        self._patience_s, self._steps = patience_s, Steps()
        self.facts: dict[str, str | int | float] = {}
        self._feeders = list[_Feeder]()
        for sink in sinks:
            try:
                self._feeders.append(_Feeder(sink, _opened(sink, run), tell or _unheard))
            except TrackerError as error:
                if not without:
                    raise
                (tell or _unheard)(f"{run.name}: {error}; this run goes on without")
        for feeder in self._feeders:
            feeder.start()

    def log(self, rows: Iterable[Row]) -> None:
        """Takes a round of a simulation, as `RoundRecord.metrics` returns it, and returns at once."""
        self.take(self._steps.of_rows(rows, time.time()))

    def take(self, steps: Iterable[Step]) -> None:
        """Takes rounds, of which each tracker skips what it has, and returns at once."""
        for step in steps:
            for feeder in self._feeders:
                feeder.log(step)

    def model(self, version: int, fetch: Fetch) -> None:
        """Takes a version of the model; `fetch` may be called, in other threads, until the end."""
        for feeder in self._feeders:
            feeder.put(lambda sink: sink.model(version, fetch))

    def end(self, end: End) -> None:
        """Says how the job ended, and waits until every tracker knows.

        Raises:
            TrackerError: some do not within `patience_s`; they are named.
        """
        for feeder in self._feeders:
            feeder.put(lambda sink: sink.end(end))
        self.leave(self._patience_s)

    def leave(self, patience_s: float) -> None:
        """Waits until every tracker has what was taken; the run stays open, for who goes on with it.

        Raises:
            TrackerError: some have not within `patience_s`; they are named.
        """
        for feeder in self._feeders:
            feeder.stop()
        until = time.monotonic() + patience_s
        for feeder in self._feeders:
            feeder.join(max(0.0, until - time.monotonic()))
        if late := [feeder.words() for feeder in self._feeders if feeder.is_alive()]:
            raise TrackerError("; ".join(late))

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.end(End("COMPLETED", facts=self.facts))
            return
        status = "FAILED" if issubclass(kind, Exception) else "CANCELLED"
        self._patience_s = min(self._patience_s, SHORTLY_S)
        with contextlib.suppress(TrackerError):  # what ended the job is what its caller hears
            self.end(End(status, str(error) or kind.__name__, self.facts))


class _Feeder(Thread):
    """Does what is put for one tracker, in order; what fails is done again. Ends with the process."""

    def __init__(self, sink: Sink, has: int, tell: Tell) -> None:
        super().__init__(name=f"to {sink.name}", daemon=True)
        self._sink, self._has, self._tell = sink, has, tell
        self._acts: SimpleQueue[Act | None] = SimpleQueue()
        self._trouble = ""

    def log(self, step: Step) -> None:
        if step.number > self._has:
            self.put(lambda sink: sink.log(step))

    def put(self, act: Act) -> None:
        self._acts.put(act)

    def stop(self) -> None:
        """Ends the thread behind what was put."""
        self._acts.put(None)

    def words(self) -> str:
        """What it has not come to the end with, and why."""
        return f"{self._sink.name} has not taken everything ({self._trouble or 'it is slow'})"

    def run(self) -> None:
        for act in iter(self._acts.get, None):
            self._do(act)

    def _do(self, act: Act) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                act(self._sink)
            except Exception as error:  # whatever a tracker's package comes upon
                if not self._trouble:
                    self._tell(f"{self._sink.name} does not take what it gets ({reason(error)}); trying again")
                self._trouble = reason(error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if self._trouble:
                    self._tell(f"{self._sink.name} takes it again")
                self._trouble = ""
                return


def reason(error: Exception) -> str:
    """What a tracker's package says, in a line that is not too long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST_REASON else f"{words[: _LONGEST_REASON - 1]}…"


def _opened(sink: Sink, run: Run) -> int:
    try:
        return sink.open(run)
    except Exception as error:  # whatever a tracker's package comes upon
        raise TrackerError(
            f"{sink.name} cannot be used ({reason(error)}); correct its settings, or leave it out"
        ) from error


def _unheard(_: str) -> None:
    """Nobody listens."""
