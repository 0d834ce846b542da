"""`fedgalore jobs track`: a job's rounds in MLflow, Weights & Biases or TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.jobs.following import end, interruptible
from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import note, put
from fedgalore_cli.tracking import Experiment, RunsFolder, Tracker, sinks


def track(
    job: JobId,
    to: Annotated[list[Tracker], typer.Option("--to", help="Tracker to log to. Can be given again: to all of them.")],
    experiment: Experiment = "fedgalore",
    runs: RunsFolder = Path("runs"),
    model: Annotated[
        Literal["none", "last", "best"],
        typer.Option(help="Version of the model that MLflow and W&B keep when the job has ended."),
    ] = "none",
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Log a job to a tracker, from its first round until it has ended.

    It logs the document, and of each round what `fedgalore jobs metrics` shows: metrics, epsilon, bytes, seconds. Step
    is the number of the round. Start it late, stop it, start it again: each round is logged once. The job does not
    know of it.

    Addresses and credentials of a tracker come from its own variables: MLFLOW_TRACKING_URI, WANDB_API_KEY, and so on.
    Exit status: as of `fedgalore jobs watch`, or 1 if a tracker does not take everything.
    """
    from fedgalore.tracking import TrackerError, track

    wanted = None if model == "none" else model
    try:
        into = sinks(to, experiment, runs)
    except TrackerError as error:
        fail(str(error))
    with connect(url) as client, interruptible(job):
        try:
            found = track(client, job, into, model=wanted, tell=note)
        except TrackerError as error:
            fail(f"{error}; the same command goes on where the tracker is")
    rows = [{"tracker": sink.name, "run": sink.where} for sink in into]
    put(
        output,
        {"job": job, "status": found.status, "runs": rows},
        "\n".join(f"{r['tracker']}: {r['run']}" for r in rows),
    )
    end(found)
