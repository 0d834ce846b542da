"""What jobs did at this site, in a file that only grows: each line is chained to those before it by its hash.

A line is `SHA256 JSON`: the hash is of the hash of the line before and of this line's JSON. Beside the log,
`site.log.head` has the number and the hash of its last line, so that lines that are missing at the end are noticed.
A line is on the disk before what it tells of leaves the site.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client_agent.errors import WorkDirUnusable
from fedgalore.process import durable

FILE = "site.log"
DAY_S = 86_400.0
_TEXT = "document"  # the field of a line that is left out of memory
_START = "0" * 64

Line = dict[str, Any]
Start = tuple[str, str, int]  # job, SHA-256 of its document, the version that training or an evaluation starts from


@dataclass
class Reading:
    """A log as it was read: its lines, the hash of the last, and what is wrong with them, in sentences.

    `size_bytes`: of whole lines. `problems` name lines by number, from 1.
    """

    lines: list[Line] = field(default_factory=list)
    head: str = _START
    size_bytes: int = 0
    problems: list[str] = field(default_factory=list)


class SiteLog:
    """The log of an agent's work folder. One process writes it; methods may be called from any thread."""

    def __init__(self, work_dir: Path) -> None:
        """Takes off what a death in the middle of a line has left.

        Raises:
            WorkDirUnusable: lines were changed or are missing.
        """
        self._path, self._lock = work_dir / FILE, threading.Lock()
        found = read(work_dir)
        if found.problems:
            raise WorkDirUnusable(
                f"work_dir: {self._path} is not as the agent wrote it: {found.problems[0]}. Look into it by `fedgalore "
                f"agent --log`; to begin a new one, move it and {FILE}.head away, for whoever audits this site"
            )
        if self._path.exists() and self._path.stat().st_size > found.size_bytes:
            os.truncate(self._path, found.size_bytes)
        self._lines, self._head = found.lines, found.head

    def append(self, event: str, **fields: Any) -> None:
        """Adds a line, which is on the disk afterwards.

        Raises:
            OSError: the disk takes nothing more; the log is as it was.
        """
        with self._lock:
            line = {"number": len(self._lines) + 1, "at": round(time.time(), 3), "event": event, **fields}
            text = json.dumps(line)
            head = _chained(self._head, text)
            _write(self._path, f"{head} {text}\n".encode())
            line.pop(_TEXT, None)
            self._lines.append(line)
            self._head = head
            with durable.survives_power_cut(_head_file(self._path)) as draft:
                draft.write_text(f"{line['number']} {head}\n", encoding="ascii")

    def lines(self, event: str) -> Iterator[Line]:
        """The lines of an event, oldest first, without documents."""
        with self._lock:
            found = [line for line in self._lines if line["event"] == event]
        return iter(found)

    def knows(self, job_id: str, document_sha256: str) -> bool:
        """Whether the log has this document of this job."""
        return any(
            (line["job"], line["document_sha256"]) == (job_id, document_sha256) for line in self.lines("document")
        )

    def noise_multipliers(self) -> list[float]:
        """Of the noises that were drawn, one for each update that left or may have left."""
        return [line["noise_multiplier"] for line in self.lines("noise")]

    def rounds_of_a_day(self, but: Start) -> int:
        """From how many starts losses, an update or an evaluation were sent in the last 24 hours, but for this one."""
        since = time.time() - DAY_S
        return len({_start(line) for line in self.lines("sends") if line["at"] > since} - {None, but})


def read(work_dir: Path) -> Reading:
    """Reads and checks the log of a work folder; one that is being written may lack its last line."""
    path, found = work_dir / FILE, Reading()
    told = _told_head(path)
    for number, raw in enumerate(_raw_lines(path), start=1):
        found.size_bytes += len(raw)
        _take(found, number, raw)
    _check_end(found, told, path)
    return found


def _take(found: Reading, number: int, raw: bytes) -> None:
    """Adds a line to what was read, and what is wrong with it."""
    digest, _, text = raw.decode(errors="replace").rstrip("\n").partition(" ")
    if (line := _parsed(text)) is None:
        found.problems.append(f"line {number} is no line of this log: it was changed")
        return
    of_itself = line["number"]
    after = found.lines[-1]["number"] if found.lines else 0
    if of_itself > after + 1:
        missing = f"{after + 1} to {of_itself - 1}" if of_itself > after + 2 else str(after + 1)
        found.problems.append(f"line {number} calls itself {of_itself}: before it, {missing} is missing")
    elif digest != _chained(found.head, text):
        found.problems.append(f"line {number} does not have the hash of itself and the line before: one was changed")
    line.pop(_TEXT, None)
    found.lines.append(line)
    found.head = digest


def _parsed(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kinds: dict[str, type | tuple[type, ...]] = {"number": int, "at": (int, float), "event": str}
    return line if isinstance(line, dict) and all(isinstance(line.get(k), kind) for k, kind in kinds.items()) else None


def _check_end(found: Reading, told: tuple[int, str] | None, path: Path) -> None:
    last, beside = found.lines[-1]["number"] if found.lines else 0, _head_file(path).name
    if told is None:
        if last > 1:  # the first line may have been written, and its head not yet
            lost = f"{beside} is missing or was changed: whether lines follow line {last} is not known"
            found.problems.append(lost)
        return
    number, head = told
    if number > last:
        found.problems.append(f"line {number} was the last, and the log ends with line {last}: its end is missing")
    elif not found.problems and head != _hash_of_line(path, number):
        found.problems.append(f"line {number} has another hash than {beside} says: one of them was changed")


def _start(line: Line) -> Start | None:
    """What a line of `sends` counts as; None: it tells of no example's loss."""
    if line["what"] not in ("progress", "update", "evaluation"):
        return None
    return line["job"], line["document_sha256"], line["version"] - (line["what"] == "update")


def _chained(before: str, text: str) -> str:
    return hashlib.sha256(f"{before} {text}".encode(errors="replace")).hexdigest()


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Whole lines: what a death has left of another one is none."""
    try:
        with path.open("rb") as file:
            yield from (raw for raw in file if raw.endswith(b"\n"))
    except FileNotFoundError:
        return


def _hash_of_line(path: Path, number: int) -> str:
    return next((raw[:64].decode() for at, raw in enumerate(_raw_lines(path), start=1) if at == number), "")


def _told_head(path: Path) -> tuple[int, str] | None:
    try:
        number, head = _head_file(path).read_text(encoding="ascii").split()
        return int(number), head
    except (FileNotFoundError, ValueError):
        return None


def _head_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _write(path: Path, data: bytes) -> None:
    """Adds to a file, durably, all or nothing."""
    is_new = not path.exists()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    if is_new:
        durable.sync(path.parent)
