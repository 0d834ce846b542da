"""MLflow: a run a job, found again by a tag. Its server keeps equal values once, so a round can be logged again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from fedgalore.tracking.mapping import NUMBER, End, Run, Step
from fedgalore.tracking.sink import Fetch, TrackerError, package

TAG = "fedgalore.run"
MODEL = "fedgalore.kept_model_version"
PARAMS, METRICS = 100, 1000  # most that a request may hold
LONGEST_PARAM = 6000  # characters
_UNKNOWN = re.compile(r"[^/\w.\- :]")  # what its names may not have
_STATUSES = {"COMPLETED": "FINISHED", "CANCELLED": "KILLED"}


class MLflow:
    """Logs to the server that `uri` or MLFLOW_TRACKING_URI names, with MLflow's own variables for credentials.

    Raises:
        TrackerError: mlflow is not installed, or no server is named.
    """

    name = "MLflow"
    where = ""

    def __init__(self, experiment: str = "fedgalore", uri: str | None = None) -> None:
        mlflow = package("mlflow", "mlflow", self.name)
        self._entities = package("mlflow.entities", "mlflow", self.name)
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise TrackerError("MLFLOW_TRACKING_URI: names no MLflow server; set it, such as to http://127.0.0.1:5000")
        self._experiment, self._uri = experiment, uri
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._id = ""

    def open(self, run: Run) -> int:
        experiment = self._experiment_id()
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        if found:
            last = int(found[0].data.metrics.get(NUMBER, 0))
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {TAG: run.id, "mlflow.note.content": run.description, **{f"tag.{each}": "" for each in run.tags}}
            self._id, last = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id, 0
        self.where = f"{self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{self._id}"
        if "document" not in (found[0].data.tags if found else {}):
            self._describe(run)
        return last

    def log(self, step: Step) -> None:
        """The round's number comes last: where it is, the whole round is."""
        at = round(1000 * step.at)
        names = [*(name for name in step.values if name != NUMBER), NUMBER]
        metrics = [self._entities.Metric(_known(name), step.values[name], at, step.number) for name in names]
        for some in _parts(metrics, METRICS):
            self._client.log_batch(self._id, metrics=some)

    def model(self, version: int, fetch: Fetch) -> None:
        if self._client.get_run(self._id).data.tags.get(MODEL) != str(version):
            self._client.log_artifacts(self._id, str(fetch()), "model")
            self._client.set_tag(self._id, MODEL, str(version))

    def end(self, end: End) -> None:
        for name, value in {"status": end.status, "reason": end.reason, **end.facts}.items():
            self._client.set_tag(self._id, _known(f"fedgalore.{name}"), str(value))
        self._client.set_terminated(self._id, _STATUSES.get(end.status, "FAILED"))

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        return str(found.experiment_id if found else self._client.create_experiment(self._experiment))

    def _describe(self, run: Run) -> None:
        params = [self._entities.Param(_known(name), str(value)[:LONGEST_PARAM]) for name, value in run.params.items()]
        for some in _parts(params, PARAMS):
            self._client.log_batch(self._id, params=some)
        self._client.log_dict(self._id, dict(run.document), "job.yaml")
        self._client.set_tag(self._id, "document", "job.yaml")


def _known(name: str) -> str:
    return _UNKNOWN.sub("_", name)


def _parts(values: Sequence[Any], most: int) -> list[list[Any]]:
    return [list(values[start : start + most]) for start in range(0, len(values), most)]
