"""Lists as tables, a row a line: of jobs, agents, keys and join tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from rich.text import Text

from fedgalore.spec.amounts import size
from fedgalore_cli.output import note
from fedgalore_cli.show.console import console, fitted, table
from fedgalore_cli.words import ago, in_words, number, status

MOST_MEASURED = 2000  # rows that are laid out for the screen: that takes a second for every 4000
Row = Mapping[str, Any]
Rows = Sequence[Row]
Column = tuple[str, Callable[[Row], str | Text]]


def jobs(rows: Rows) -> None:
    """Prints a table of jobs, and their reasons below it where the screen has no room for them."""
    needed: list[Column] = [
        ("job", lambda job: job["id"]),
        ("name", lambda job: job["name"]),
        ("status", lambda job: status(job["status"])),
        ("rounds", lambda job: f"{_dash(job['rounds_done'])} / {job['rounds_total']}"),
    ]
    more: list[Column] = [
        ("updated", lambda job: ago(job["updated"])),
        ("method", lambda job: job["method"]),
        ("tags", lambda job: ", ".join(job["tags"])),
        ("reason", lambda job: job["reason"]),
    ]
    if "reason" in _print(rows, needed, more):
        console().print("", *(Text(f"{job['id']}: {job['reason']}") for job in rows if job["reason"]), sep="\n")


def keys(rows: Rows) -> None:
    """Prints a table of API keys."""
    needed: list[Column] = [("key", lambda key: key["id"]), ("name", lambda key: key["name"])]
    more: list[Column] = [
        ("role", lambda key: key["role"]),
        ("team", lambda key: key["team"] or "all"),
        ("made", lambda key: ago(key["created"])),
    ]
    _print(rows, needed, more)


def join_tokens(rows: Rows) -> None:
    """Prints a table of join tokens."""
    needed: list[Column] = [
        ("token", lambda token: token["id"]),
        ("client", lambda token: token["client"]),
        ("state", _state),
    ]
    more: list[Column] = [
        ("good until", lambda token: token["expires"].split(".")[0]),
        ("made", lambda token: ago(token["created"])),
    ]
    _print(rows, needed, more)


def agents(rows: Rows) -> None:
    """Prints a table of agents."""
    needed: list[Column] = [("agent", lambda agent: agent["name"]), ("present", _present)]
    more: list[Column] = [
        ("last seen", lambda agent: ago(agent["last_seen"]) if agent["last_seen"] else "never"),
        ("task", _task),
        ("data (train examples)", _data),
        ("teams", lambda agent: ", ".join(agent["teams"]) or "-"),
        ("version", lambda agent: agent["software_version"]),
    ]
    _print(rows, needed, more)


def models(rows: Rows) -> None:
    """Prints a table of jobs' models."""
    needed: list[Column] = [
        ("job", lambda model: model["job"]),
        ("name", lambda model: model["name"]),
        ("version", lambda model: str(model["versions"][0]["version"]) if model["versions"] else "-"),
    ]
    more: list[Column] = [
        ("kept", lambda model: str(model["kept"])),
        ("size", lambda model: size(model["versions"][0]["size_bytes"]) if model["versions"] else "-"),
        ("measured", lambda model: in_words(model["versions"][0]["metrics"]) if model["versions"] else "-"),
        ("status", lambda model: status(model["status"])),
        ("method", lambda model: model["method"]),
        ("tags", lambda model: ", ".join(model["tags"])),
    ]
    _print(rows, needed, more)


def contexts(rows: Rows) -> None:
    """Prints a table of named coordinators."""
    needed: list[Column] = [
        ("name", lambda row: row["name"]),
        ("current", lambda row: Text("yes", "green") if row["current"] else "-"),
        ("url", lambda row: row["url"]),
    ]
    more: list[Column] = [("key file", lambda row: row["key_file"] or "-"), ("ca", lambda row: row["ca"] or "-")]
    _print(rows, needed, more)


def metrics(rows: Rows) -> None:
    """Prints a table of measured values, a row a value."""
    columns: list[Column] = [
        ("round", lambda row: str(row["round"])),
        ("version", lambda row: str(row["model_version"])),
        ("client", lambda row: row["client"] or "-"),
        ("source", lambda row: row["source"]),
        ("metric", lambda row: row["metric"]),
        ("value", lambda row: number(row["value"])),
    ]
    if len(rows) > MOST_MEASURED:
        _print_at_once(rows, columns)
    else:
        _print(rows, columns, [])


def _print_at_once(rows: Rows, columns: Sequence[Column]) -> None:
    """Prints plain texts in columns as wide as they are, whatever the screen's width."""
    lines = [[name for name, _ in columns], *([str(cell(row)) for _, cell in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(map(str.ljust, line, widths)).rstrip())


def _print(rows: Rows, needed: Sequence[Column], more: Sequence[Column]) -> list[str]:
    """Prints a row a line, with as many of the further columns as there is room for; returns those left out."""
    places = dict([*needed, *more])
    drawn = fitted(
        lambda shown, gap: _drawn(rows, [(name, places[name]) for name in (*dict(needed), *shown)], gap),
        [name for name, _ in more],
    )
    console().print(drawn)
    missing = list(places)[len(drawn.columns) :]
    if hidden := [name for name in missing if name != "reason"]:
        note(f"no room for {', '.join(hidden)}: a wider terminal has them, and `--output json`")
    return missing


def _drawn(rows: Rows, columns: Sequence[Column], gap: int) -> Any:
    drawn = table(*(name for name, _ in columns), gap=gap)
    for row in rows:
        drawn.add_row(*(cell(row) for _, cell in columns))
    return drawn


def _present(agent: Row) -> Text:
    return Text("yes", "green") if agent["present"] else Text("no", "red")


def _task(agent: Row) -> str:
    return f"{agent['task']['job']} round {agent['task']['round']}" if agent["task"] else "-"


def _data(agent: Row) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(agent["datasets"].items()))


def _state(token: Row) -> str | Text:
    if token["used"]:
        return f"used {ago(token['used'])}"
    return "expired" if token["expired"] else Text("open", "green")


def _dash(value: Any) -> str:
    return "-" if value is None else str(value)
