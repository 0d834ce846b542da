"""What a tracker has to do, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fedgalore.tracking.mapping import End, Run, Step

Fetch = Callable[[], Path]


class TrackerError(Exception):
    """A tracker cannot be used; a whole sentence for people, with the way out."""


class Sink(Protocol):
    """A tracker's run of one job. Every call can be made again after it has failed, and changes nothing twice.

    `name`: of the tracker, for people. `where`: of the run, once it is open.
    """

    name: str
    where: str

    def open(self, run: Run) -> int:
        """Begins the run, or goes on with it; returns the number of the last round that it has, 0 without any."""

    def log(self, step: Step) -> None:
        """Writes down a round, whole or not at all as far as the tracker can. Rounds come in their order."""

    def model(self, version: int, fetch: Fetch) -> None:
        """Keeps a version of the model, unless the run has it; `fetch` brings it as a folder."""

    def end(self, end: End) -> None:
        """The job has ended; nothing follows."""


def package(name: str, extra: str, tracker: str) -> Any:
    """A tracker's package or a module of it.

    Raises:
        TrackerError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != name.split(".")[0]:
            raise
        raise TrackerError(
            f"{tracker} needs a package that is not installed ({error.name}); run: pip install 'fedgalore[{extra}]'"
        ) from error
