"""What `fedgalore simulate` runs jobs over: sites, test data, threads and trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgalore_cli.output import note
from fedgalore_cli.tracking import Tracker, sinks

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.records import RoundRecord, SimulationResult
    from fedgalore.simulation import Site
    from fedgalore.spec.job import JobSpec
    from fedgalore.tracking import Tracking


@dataclass(frozen=True)
class Federation:
    """`tests`: examples by name that no site holds; `places`: what messages call them."""

    sites: Sequence[Site]
    tests: Mapping[str, Sequence[Example]]
    places: Mapping[str, str]
    threads: int | None
    trackers: Sequence[Tracker]
    experiment: str
    runs: Path

    @contextmanager
    def tracking(self, spec: JobSpec, name: str, id: str, *, without: bool = False) -> Iterator[Tracking]:
        """The trackers, open for a run of this name; what is logged under the same id later goes on with it.

        A tracker that does not take everything is named on stderr, and costs nothing but its record.

        Args:
            without: as well where a tracker cannot be used at the start, which is named on stderr then.

        Raises:
            TrackerError: one of them cannot be reached or used.
        """
        from fedgalore.tracking import Run, TrackerError, Tracking

        run = Run(id, name, spec.model_dump(mode="json"), (spec.name, "simulation"))
        opened = Tracking(run, sinks(self.trackers, self.experiment, self.runs), note, without=without)
        try:
            with opened:
                yield opened
        except TrackerError as error:
            note(f"{name}: {error}")

    def play(self, spec: JobSpec, tracking: Tracking, tell: Callable[[RoundRecord], None]) -> SimulationResult:
        """Runs a job; each round goes to the trackers, and to `tell`."""
        import torch

        from fedgalore.process.threads import choose
        from fedgalore.simulation import simulate

        torch.set_num_threads(choose(self.threads or "auto").count)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

        def both(record: RoundRecord) -> None:
            tracking.log(record.metrics(spec))
            tell(record)

        folder = Path(spec.model.source).expanduser()
        result = simulate(spec, folder, self.sites, device, both, self.tests, held_out_places=self.places)
        tracking.facts["model_version"] = result.rounds[-1].model_version
        if result.best is not None and spec.evaluation.keep is not None:
            tracking.facts["best_version"] = result.best.version
            tracking.facts[f"best_{spec.evaluation.keep.metric}"] = result.best.value
        return result


def failure(error: Exception, spec: JobSpec) -> str:
    """What a job that failed says to people."""
    from fedgalore.maths.bounds import OutOfBounds
    from fedgalore.model.culprits import short, unforeseen
    from fedgalore.model.inputs import TaskError
    from fedgalore.process.memory import is_short
    from fedgalore.spec.relief import relief
    from fedgalore.tracking import TrackerError
    from fedgalore.training import TrainingError

    if is_short(error):
        return f"this machine ran out of memory ({short(error)}); {relief(spec)}"
    foreseen = isinstance(error, TaskError | TrainingError | OutOfBounds | TrackerError | ValueError | OSError)
    return str(error) if foreseen else unforeseen(error)
