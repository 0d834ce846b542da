"""Points at which a process can be made to die, to prove that nothing is lost whatever dies when.

Off unless the settings name one, as `POINT:PASSING:FILE`: the process that passes the numbered point for the
`PASSING`th time writes FILE and kills itself with SIGKILL. A FILE that exists switches the point off, so that what is
started anew, by a supervisor or by hand, lives.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

FORMAT = re.compile(r"(?P<point>\d+):(?P<passing>[1-9]\d*):(?P<file>.+)")


class Fault(IntEnum):
    """Every step of a job that changes something, by who takes it."""

    # the coordinator's doors and engine
    STEP_DECIDED = 1  # a job's next state is known, not saved
    STEP_SAVED = 2  # saved; nobody has heard of it
    UPLOAD_OPENED = 3  # the partial file stands
    CHUNK_WRITTEN = 4
    UPLOAD_ARRIVED = 5  # every byte is here, none is checked
    UPLOAD_STORED = 6  # checked, synced and a blob, not reported to the round
    CHUNK_SENT = 7  # of a download
    PARTIALS_CLEANED = 8
    JOB_CREATED = 9  # the job stands; whoever posted it has no answer
    JOB_REMOVED = 10  # the job is gone from the state; its blobs lie there yet, and whoever deleted it has no answer
    # the blob store, in whichever process
    BLOB_SYNCED = 11  # on the disk, not yet under its name
    BLOB_NAMED = 12  # under its name, its folder not yet synced
    # the aggregator
    ATTEMPT_COUNTED = 21
    MODEL_EXPORTED = 22
    MODEL_STORED = 23  # version 0 is in blobs; the job has not heard
    GROUP_WRITTEN = 24  # one group of matrices of the next version
    VERSION_WRITTEN = 25  # all of it, in scratch files
    VERSION_STORED = 26  # in blobs; the round has not heard
    RESULT_REPORTED = 27  # committed; its attempts are still counted
    CUT_STORED = 28  # what goes down is in blobs; a checkpoint that is due is not
    WEIGHTS_STORED = 29  # of a version that had a chain alone; the job has not heard
    # the agent
    TASK_RECEIVED = 41
    CHUNK_RECEIVED = 42
    DOWNLOAD_ARRIVED = 43  # every byte is here, none is checked
    DOWNLOAD_STORED = 44
    MODEL_ASSEMBLED = 45
    WEIGHTS_HELD = 46
    EVALUATED = 47  # not reported
    EVALUATION_REPORTED = 48
    TRAINED_STEP = 49
    KEPT_WRITTEN = 50  # what the client keeps for its next round; its update is not written
    UPDATE_WRITTEN = 51
    UPDATE_CHUNK_SENT = 52
    UPDATE_ACCEPTED = 53  # the client knows it; the file still lies here
    UPDATE_FORGOTTEN = 54
    TIDIED = 55


@dataclass
class _Armed:
    point: Fault
    passing: int
    file: Path
    passed: int = 0


_armed: _Armed | None = None


def parse(text: str) -> tuple[Fault, int, Path]:
    """Point, passing and file.

    Raises:
        ValueError: not `POINT:PASSING:FILE` with a known point.
    """
    match = FORMAT.fullmatch(text)
    if match is None or int(match["point"]) not in Fault.__members__.values():
        known = ", ".join(f"{point.value} {point.name}" for point in Fault)
        raise ValueError(f"must be POINT:PASSING:FILE with one of the points {known}")
    return Fault(int(match["point"])), int(match["passing"]), Path(match["file"])


def arm(text: str | None) -> None:
    """Makes this process die where `text` says; None or an existing file: nowhere."""
    global _armed
    _armed = None
    if text is not None:
        point, passing, file = parse(text)
        if not file.exists():
            _armed = _Armed(point, passing, file)


def reach(point: Fault) -> None:
    """Says that the process is at this point."""
    if _armed is not None and point is _armed.point:
        _armed.passed += 1
        if _armed.passed == _armed.passing and not _armed.file.exists():
            _die(_armed)


def _die(armed: _Armed) -> NoReturn:
    armed.file.write_text(f"{armed.point.value} {armed.point.name} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL does not return")
