"""What the site's log says of one task: that it came, what is refused, what leaves for it, how it ended."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from client_agent.errors import SiteRefuses
from client_agent.site_log import SiteLog
from protos import federation_pb2 as pb

_KINDS = {pb.Task.KIND_TRAIN: "train", pb.Task.KIND_EVALUATE: "evaluate", pb.Task.KIND_CHECK: "check"}


class TaskLog:
    """The lines of a task. Each is on the disk when its call returns; `OSError`: the disk takes none."""

    def __init__(self, log: SiteLog, task: pb.Task) -> None:
        self._log, self._task = log, task
        self._document = hashlib.sha256(task.spec_json.encode()).hexdigest()
        self._has_begun = self._has_told = False
        self._reports, self._report_bytes = 0, 0

    @property
    def _version(self) -> int:
        """That an update of the task makes."""
        return int(self._task.model_version) + 1

    async def begins(self) -> None:
        """The task, and its job's document where that is new. A task that goes on after a pause has begun before."""
        if self._has_begun:
            return
        task, about = self._task, {"posted_by": self._task.posted_by, "document_sha256": self._document}
        if not self._log.knows(task.job_id, self._document):
            await self._line("document", **about, document=task.spec_json)
        models = {"model_version": task.model_version, "participants": task.participants}
        await self._line("task", kind=_KINDS.get(task.kind, "unknown"), **about, **models)
        self._has_begun = True

    async def refuses(self, error: SiteRefuses) -> None:
        await self._line("refuses", code=error.code, reason=str(error))

    async def sends(self, what: str, size_bytes: int, **fields: Any) -> None:
        """Before `size_bytes` leave."""
        version = self._version if what == "update" else int(self._task.model_version)
        about = {"document_sha256": self._document, "version": version}
        await self._line("sends", what=what, bytes=size_bytes, **about, **fields)

    async def tells_progress(self) -> None:
        """Before training, whose reports of progress tell of losses; `ends` has their bytes."""
        if not self._has_told:
            await self.sends("progress", 0)
            self._has_told = True

    @property
    def document(self) -> str:
        """The SHA-256 of the job's document as the task brings it."""
        return self._document

    def charge(self, noise_multiplier: float, clip_norm: float) -> None:
        """Before noise is drawn; from any thread."""
        about = {"job": self._task.job_id, "round": self._task.round, "version": self._version}
        self._log.append("noise", **about, noise_multiplier=noise_multiplier, clip_norm=clip_norm)

    def reported(self, size_bytes: int) -> None:
        """Counts a report of progress, of which there is one in two seconds; `ends` tells how many there were."""
        self._reports += 1
        self._report_bytes += size_bytes

    async def ends(self, outcome: str) -> None:
        """Only a task that has begun does."""
        if self._has_begun:
            await self._line("ends", outcome=outcome, reports=self._reports, report_bytes=self._report_bytes)

    def rounds_of_a_day(self) -> int:
        """Beside this task's own."""
        return self._log.rounds_of_a_day((self._task.job_id, self._document, self._task.model_version))

    async def _line(self, event: str, **fields: Any) -> None:
        await asyncio.to_thread(self._log.append, event, job=self._task.job_id, round=self._task.round, **fields)
