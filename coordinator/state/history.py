"""What happened to a job, in words for people: a line for each event of its stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


class Line(NamedTuple):
    """`text` is one sentence, without time, job, round and client."""

    level: Level
    text: str


def line(kind: str, data: dict[str, Any]) -> Line:
    """An event of `coordinator.state.stream_events` in words."""
    return _WORDS[kind](data) if kind in _WORDS else Line("info", kind)


def _status(data: dict[str, Any]) -> Line:
    level: Level = {"FAILED": "error", "PAUSED": "warning"}.get(data["status"], "info")  # type: ignore[assignment]
    words = {None: {"PENDING": "submitted"}, "PAUSED": {"RUNNING": "resumed", "PENDING": "resumed"}}
    what = words.get(data.get("was"), {}).get(data["status"], data["status"].lower())
    by = f" by {data['by']}" if "by" in data else ""
    reason = str(data["reason"])
    return Line(level, reason if reason.startswith(what) else f"{what}{by}: {reason}")


def _phase(data: dict[str, Any]) -> Line:
    what = "evaluation" if data["kind"] == "evaluate" else "round"
    reason = f": {data['reason']}" if data.get("reason") else ""
    match data["phase"]:
        case "SELECTION":
            return Line("info", f"{what} opened{reason}")
        case "COMMITTED":
            return Line("info", f"{what} committed{reason}")
        case "ABANDONED":
            return Line("warning", f"{what} abandoned{reason}")
        case phase:
            return Line("debug", f"{what} in {phase}{reason}")


def _measured(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


_WORDS: dict[str, Callable[[dict[str, Any]], Line]] = {
    "job.status": _status,
    "job.rollback": lambda data: Line("info", f"version {data['of']} is current again, as {data['model_version']}"),
    "job.labels": lambda data: Line("debug", f"tags: {', '.join(data['tags']) or 'none'}"),
    "site.check": lambda data: (
        Line("info", "its data fit") if data["fits"] else Line("warning", f"its data do not fit: {data['problem']}")
    ),
    "round.phase": _phase,
    "client.task": lambda data: Line("debug", "took its task"),
    "client.report": lambda data: Line(
        "debug", f"update of {data['size_bytes']} bytes from {data['num_examples']} examples arrived"
    ),
    "client.evaluation": lambda data: Line(
        "debug", f"evaluated version {data['model_version']}: {_measured(data['metrics'])}"
    ),
    "client.failure": lambda data: Line("warning", f"failed: {data['reason']}"),
    "client.late": lambda data: Line("warning", f"too late: {data['reason']}"),
    "client.dropped": lambda data: Line("warning", f"left out: {data['reason']}"),
    "client.lost": lambda data: Line("warning", f"its update is asked for again: {data['reason']}"),
}
