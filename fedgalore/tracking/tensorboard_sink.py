"""TensorBoard: a folder of event files a job. A round is one event, which a file has whole or not at all."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from fedgalore.tracking.mapping import NUMBER, End, Run, Step
from fedgalore.tracking.sink import Fetch, package

_TOOLS = {
    "writer": "tensorboard.summary.writer.event_file_writer",
    "reader": "tensorboard.backend.event_processing.event_file_loader",
    "event": "tensorboard.compat.proto.event_pb2",
    "summary": "tensorboard.compat.proto.summary_pb2",
    "text": "tensorboard.plugins.text.summary_v2",
    "hparams": "tensorboard.plugins.hparams.summary_v2",
}


class TensorBoard:
    """Writes into `folder/NAME-ID`. It keeps no models.

    Raises:
        TrackerError: tensorboard is not installed.
    """

    name = "TensorBoard"
    where = ""

    def __init__(self, folder: str | Path = "runs") -> None:
        self._folder = Path(folder)
        self._tools = {name: package(module, "tensorboard", self.name) for name, module in _TOOLS.items()}
        self._writer: Any = None
        self._has: set[str] = set()  # tags of what stands there once

    def open(self, run: Run) -> int:
        """What a file that broke off has no more of is written again, into a new file."""
        folder = self._folder / re.sub(r"[^\w.=,-]+", "_", f"{run.name}-{run.id}")
        self.where, last = str(folder), 0
        for path in sorted(folder.glob("events.out.tfevents.*")):
            for event in self._tools["reader"].LegacyEventFileLoader(str(path)).Load():
                tags = {value.tag for value in event.summary.value}
                self._has |= tags
                last = max(last, event.step) if NUMBER in tags else last
        if self._writer is None:
            self._writer = self._tools["writer"].EventFileWriter(str(folder))
        if "document" not in self._has:
            params = {name: value for name, value in run.params.items() if value != "null"}
            shown = json.dumps(run.document, indent=2)
            self._once("document", self._tools["text"].text_pb("document", f"```json\n{shown}\n```"), 0)
            self._once("params", self._tools["hparams"].hparams_pb(params, trial_id=run.id), 0)
        return last

    def log(self, step: Step) -> None:
        summary = self._tools["summary"].Summary()
        for name, value in step.values.items():
            summary.value.add(tag=name, simple_value=value)
        self._write(summary, step.number, step.at)

    def model(self, version: int, fetch: Fetch) -> None:
        """Nothing: TensorBoard keeps no models."""

    def end(self, end: End) -> None:
        lines = {"status": end.status, "reason": end.reason, **end.facts}
        table = "\n".join(f"| {name} | {value} |" for name, value in lines.items())
        if f"end/{end.status}" not in self._has:
            self._once(
                f"end/{end.status}", self._tools["text"].text_pb(f"end/{end.status}", f"| | |\n|-|-|\n{table}"), 0
            )
        self._writer.close()

    def _once(self, tag: str, summary: Any, step: int) -> None:
        self._write(summary, step, time.time())
        self._has.add(tag)

    def _write(self, summary: Any, step: int, at: float) -> None:
        self._writer.add_event(self._tools["event"].Event(summary=summary, step=step, wall_time=at))
        self._writer.flush()
