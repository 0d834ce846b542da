"""Deaths of the agent's process at a task: where Linux ends a process for its memory, no code of it can say so.

Counted are those between the loading of a task's model and the end of its first step, by a note in the work folder.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

MOST_DEATHS = 3  # at one task; then it is given up, so that a supervisor does not start the agent for ever


class Begun:
    """The note: which task was begun, and how often."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, task: str) -> int:
        """Notes that the task begins; how often a process has died at it."""
        deaths = self._times(task)
        with suppress(OSError):
            self._path.write_text(json.dumps({"task": task, "times": deaths + 1}), encoding="utf-8")
        return deaths

    def end(self) -> None:
        """The task has got far enough, or ended in order."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _times(self, task: str) -> int:
        try:
            note = json.loads(self._path.read_text(encoding="utf-8"))
            return int(note["times"]) if note["task"] == task else 0
        except (OSError, ValueError, TypeError, KeyError):
            return 0
