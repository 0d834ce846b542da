"""Options by which commands log to trackers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedgalore.tracking import Sink


QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # what fails is tried again here
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "WANDB_SILENT": "true",
}


class Tracker(StrEnum):
    """Where metrics go."""

    MLFLOW = "mlflow"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"


Experiment = Annotated[
    str, typer.Option("--experiment", metavar="NAME", help="MLflow's experiment, and W&B's project.")
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Folder of TensorBoard's event files, one below it for each run.")
]


def sinks(trackers: Sequence[Tracker], experiment: str, runs: Path) -> list[Sink]:
    """The trackers that are to be used, each once.

    Their packages wait for minutes where nobody answers, and print remarks; they are told not to.

    Raises:
        TrackerError: the package or the address of one is missing.
    """
    from fedgalore.tracking import MLflow, TensorBoard, WandB

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    makers: dict[Tracker, Callable[[], Sink]] = {
        Tracker.MLFLOW: lambda: MLflow(experiment),
        Tracker.TENSORBOARD: lambda: TensorBoard(runs),
        Tracker.WANDB: lambda: WandB(experiment),
    }
    return [makers[tracker]() for tracker in dict.fromkeys(trackers)]
