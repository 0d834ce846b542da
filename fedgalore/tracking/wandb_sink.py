"""Weights & Biases: a run a job, with the job's id. Online its server says how far it is, offline its files do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedgalore.tracking.mapping import NUMBER, End, Run, Step
from fedgalore.tracking.sink import Fetch, package
from fedgalore.tracking.wandb_file import steps


class WandB:
    """Logs as W&B's own variables say: WANDB_API_KEY, WANDB_MODE, WANDB_ENTITY, WANDB_DIR and so on.

    Nothing of this machine goes along but its system and the version of Python: no paths, code, output or load.

    Raises:
        TrackerError: wandb is not installed.
    """

    name = "W&B"
    where = ""

    def __init__(self, project: str = "fedgalore", folder: str | Path | None = None) -> None:
        self._wandb = package("wandb", "wandb", self.name)
        self._proto = package("wandb.proto.wandb_internal_pb2", "wandb", self.name)
        self._project, self._folder = project, folder
        self._run: Any = None

    def open(self, run: Run) -> int:
        """Offline each process writes a folder of its own; `wandb sync` brings them together."""
        if self._run is None:
            settings = self._wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            )
            self._run = self._wandb.init(
                project=self._project,
                id=run.id,
                name=run.name,
                notes=run.description or None,
                tags=list(run.tags),
                config=dict(run.document),
                dir=self._folder and str(self._folder),
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
            self._run.define_metric("*", step_metric=NUMBER)
        files = Path(self._run.dir).parent
        self.where = str(files)
        if self._run.offline:
            return self._last(files.parent.glob(f"offline-run-*-{run.id}/run-{run.id}.wandb"))
        self.where = self._run.url
        return max(int(self._run.starting_step) - 1, 0)

    def log(self, step: Step) -> None:
        self._run.log(step.values, step=step.number, commit=True)

    def _last(self, files: Iterable[Path]) -> int:
        """The last round that files have: not all that was logged, where W&B was killed before it wrote."""
        record, last = self._proto.Record, 0
        for path in files:
            with contextlib.suppress(Exception):  # of another version: its rounds are logged once more
                last = max([last, *steps(path, record)])
        return last

    def model(self, version: int, fetch: Fetch) -> None:
        if self._run.summary.get("kept_model_version") != version:
            artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model", metadata={"version": version})
            artifact.add_dir(str(fetch()))
            self._run.log_artifact(artifact)
            self._run.summary["kept_model_version"] = version

    def end(self, end: End) -> None:
        for name, value in {"status": end.status, "reason": end.reason, **end.facts}.items():
            self._run.summary[name] = value
        self._run.finish(exit_code=0 if end.status == "COMPLETED" else 1)
