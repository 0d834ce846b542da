"""A coordinator's job in trackers: its rounds are read over REST, and neither job nor coordinator knows of them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

from fedgalore.client import Client, Job
from fedgalore.client.shapes.jobs import CLOSED
from fedgalore.client.waiting import Patience, patiently
from fedgalore.tracking.feeding import SHORTLY_S, Tell, Tracking
from fedgalore.tracking.mapping import End, Run, Steps
from fedgalore.tracking.sink import Sink, TrackerError

T = TypeVar("T")
Which = Literal["last", "best"]
PATIENCE_S = 600.0


def track(
    client: Client,
    job_id: str,
    sinks: Sequence[Sink],
    *,
    model: Which | None = None,
    tell: Tell | None = None,
    patience_s: float = PATIENCE_S,
) -> Job:
    """Logs a job from its first round until it is final, also while it is paused. Returns the job.

    It can begin late, end early and be called again: each tracker gets each round once. A coordinator that is away is
    waited for, ten minutes.

    Args:
        model: which version of the model trackers keep when the job is final; None: none.
        tell, patience_s: as `Tracking`.

    Raises:
        ClientError
        TrackerError: a tracker cannot be used, or has not taken everything.
    """
    return _Following(client, job_id, sinks, model, tell, patience_s).run()


class _Following:
    def __init__(
        self,
        client: Client,
        job_id: str,
        sinks: Sequence[Sink],
        model: Which | None,
        tell: Tell | None,
        patience_s: float,
    ) -> None:
        self._client, self._id, self._steps = client, job_id, Steps()
        self._patience = Patience()
        self._job, self._tell = self._asked(lambda: client.job(job_id)), tell
        if model == "best" and self._job.spec["evaluation"]["keep"] is None:
            raise TrackerError(f"model: job {job_id} keeps no best version (evaluation.keep); take last")
        self._model = model
        self._tracking = Tracking(Run.of(self._job), sinks, tell, patience_s)

    def run(self) -> Job:
        try:
            self._follow()
        except BaseException:
            with contextlib.suppress(TrackerError):  # whoever calls again brings what is missing
                self._tracking.leave(SHORTLY_S)
            raise
        with tempfile.TemporaryDirectory(prefix="fedgalore-model-") as folder:
            if (version := self._version()) is not None:
                self._tracking.model(version, _Fetched(self._client, self._id, version, Path(folder)))
            self._tracking.end(End.of(self._job))
        return self._job

    def _follow(self) -> None:
        self._catch_up()
        if not self._job.is_final:
            for event in self._client.watch(self._id):
                closed = event.type == "round.phase" and event.data["phase"] in CLOSED
                if closed and event.data["round"] > self._steps.last:
                    self._catch_up()
            self._catch_up()
            self._job = self._asked(lambda: self._client.job(self._id))

    def _catch_up(self) -> None:
        after = self._steps.last
        rounds = self._asked(lambda: self._client.rounds(self._id, after=after))
        rows = self._asked(lambda: self._client.metrics(self._id, after=after))
        self._tracking.take(self._steps.of_rounds(rounds, rows))

    def _version(self) -> int | None:
        """Of the model that trackers keep; None: of none."""
        if self._model == "last":
            return self._job.model_version
        if self._model == "best" and self._job.best is None and self._tell is not None:
            self._tell(f"no model is kept: {self._job.no_best or 'no version was evaluated'}")
        return self._job.best.model_version if self._model == "best" and self._job.best is not None else None

    def _asked(self, ask: Callable[[], T]) -> T:
        return patiently(ask, self._patience)


class _Fetched:
    """A version of the model, downloaded when the first tracker wants it, and once."""

    def __init__(self, client: Client, job_id: str, version: int, folder: Path) -> None:
        self._client, self._id, self._version = client, job_id, version
        self._folder, self._lock = folder / "model", Lock()

    def __call__(self) -> Path:
        with self._lock:
            if not self._folder.exists():
                self._client.model(self._id, self._folder, version=self._version)
        return self._folder
