"""Tables and texts of the commands, drawn with rich.

A plain string is printed as it stands, whoever wrote it: no console here reads markup. Colours are of `Text`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fedgalore.spec.amounts import size
from fedgalore.spec.census import Census
from fedgalore_cli.words import ago, heading, listed, number, percent, pooled, status, value

Rows = Sequence[Mapping[str, Any]]
MOST_CLASSES = 30  # of a table; REST has all of them
WIDEST = 4  # metrics beside the loss in a table; all of them stand in the headline


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error. Lines into a pipe may be longer than a terminal's."""
    at_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=None if at_terminal else 250)


def as_json(document: Any) -> None:
    """Prints what the coordinator answered."""
    typer.echo(json.dumps(document, indent=2))


def as_yaml(document: Any) -> str:
    """A document as people write it, in the order of its keys."""
    from fedgalore.spec.documents import write_yaml

    return write_yaml(document, allow_unicode=True, width=100)


def warnings(rows: Rows) -> None:
    """Prints a line on stderr for each thing that the coordinator warned of."""
    for row in rows:
        typer.echo(f"warning: {row['field']}: {row['problem']}", err=True)


def trial(answer: Mapping[str, Any]) -> None:
    """Prints what a document would be as a job, and on stderr what the coordinator warned of."""
    warnings(answer["warnings"])
    typer.echo(as_yaml(answer["spec"]), nl=False)


def listing(answer: Mapping[str, Any], name: str, table: Callable[[Rows], None], nothing: str, json_: bool) -> None:
    """Prints a list that the coordinator answered: as JSON or as a table. For an empty list it prints what to do."""
    if json_:
        as_json(answer)
    elif answer[name]:
        table(answer[name])
    else:
        typer.echo(nothing, err=True)


def jobs(rows: Rows) -> None:
    """Prints a table of jobs; the reasons below it where the screen has no room for them."""

    def table(with_reason: bool) -> Table:
        drawn = _table("job", "name", "status", "rounds", "method", "updated", *(["reason"] if with_reason else []))
        for job in rows:
            done = f"{job['rounds_done'] if job['rounds_done'] is not None else '-'} / {job['rounds_total']}"
            cells = [job["id"], job["name"], status(job["status"]), done, job["method"], ago(job["updated"])]
            drawn.add_row(*cells, *([job["reason"]] if with_reason else []))
        return drawn

    whole = table(True)
    if _fits(whole):
        console().print(whole)
    else:
        reasons = (Text(f"{job['id']}: {job['reason']}") for job in rows if job["reason"])
        console().print(_whole(table(False)), "", *reasons, sep="\n")


def keys(rows: Rows) -> None:
    """Prints a table of API keys."""
    table = _table("key", "name", "role", "made")
    for key in rows:
        table.add_row(key["id"], key["name"], key["role"], ago(key["created"]))
    console().print(_whole(table))


def join_tokens(rows: Rows) -> None:
    """Prints a table of join tokens."""
    table = _table("token", "client", "state", "made", "good until")
    for token in rows:
        unused = "expired" if token["expired"] else Text("open", "green")
        state = f"used {ago(token['used'])}" if token["used"] else unused
        table.add_row(token["id"], token["client"], state, ago(token["created"]), token["expires"])
    console().print(_whole(table))


def agents(rows: Rows) -> None:
    """Prints a table of agents."""
    table = _table("agent", "present", "data (train examples)", "version", "last seen", "task")
    for agent in rows:
        data = ", ".join(f"{name} ({count})" for name, count in sorted(agent["datasets"].items()))
        task = f"{agent['task']['job']} round {agent['task']['round']}" if agent["task"] else "-"
        present = Text("yes", "green") if agent["present"] else Text("no", "red")
        table.add_row(
            agent["name"],
            present,
            data,
            agent["software_version"],
            ago(agent["last_seen"]) if agent["last_seen"] else "never",
            task,
        )
    console().print(_whole(table))


def job(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one job: where it stands, its clients and its rounds."""
    out = console()
    out.print(headline(record))
    if record["evaluation"] or record["round"]:
        out.print("", clients(record, rows), sep="\n")
    if by_class := classes(record):
        out.print("", by_class, sep="\n")
    if rows:
        out.print("", rounds(rows), sep="\n")
    if found := alignment(rows):
        out.print("", found, sep="\n")


def headline(record: Mapping[str, Any]) -> Text:
    """Where a job stands."""
    version = record["model_version"] if record["model_version"] is not None else "-"
    done = f"{record['rounds_done'] or 0} of {record['rounds_total']} rounds"
    name, state = Text(record["name"], "bold"), status(record["status"])
    title = Text.assemble(name, f" ({record['id']})  ", state, f"  version {version}, {done}")
    lines = [title, Text(record["reason"])]
    for measured, whose in ((record["evaluation"], ""), (record["held_out"], " that the coordinator holds out")):
        if measured:
            values = ", ".join(f"{name} {number(measured['metrics'][name])}" for name in listed(measured["metrics"]))
            told = f"version {measured['model_version']} on {measured['examples']} examples{whose}: {values}"
            lines.append(Text(told))
            lines += [Text(f"no {name}: {reason}") for name, reason in measured["undefined"].items()]
    if failure := record["held_out_failure"]:
        told = f"version {version} could not be evaluated on what the coordinator holds out: {failure}"
        lines.append(Text(told, "red"))
    if record["no_best"]:
        lines.append(Text(record["no_best"], "yellow"))
    if record["trains"]:
        lines.append(Text(Census(**record["trains"]).summary()))
    lines += map(Text, record["notes"])
    new = [row for row in record["warnings"] if row["problem"] not in record["reason"]]
    lines += [Text(f"{row['field']}: {row['problem']}", "yellow") for row in new]
    lines += _sites(record["sites"])
    if record["best"]:
        best = record["best"]
        where = "on what the coordinator holds out" if best["by"] == "central" else "on the sites' examples"
        lines.append(Text(f"best is version {best['model_version']}: {best['metric']} {number(best['value'])} {where}"))
    lines.append(Text(f"received {size(record['up_bytes'])}, sent {size(record['down_bytes'])}"))
    return Text("\n").join(lines)


def _sites(sites: Mapping[str, Mapping[str, Any]]) -> list[Text]:
    """How many sites' data fit, and why others do not."""
    if not sites:
        return []
    counts = [("fit", True), ("do not fit", False), ("have not answered yet", None)]
    words = [f"{sum(site['fits'] is fits for site in sites.values())} {what}" for what, fits in counts]
    wrong = {name: site for name, site in sites.items() if site["problem"]}
    problems = [Text(f"{name}: {_coded(site['problem'], site['code'])}", "red") for name, site in wrong.items()]
    return [Text(f"sites' data: {', '.join(word for word in words if not word.startswith('0 '))}"), *problems]


def _coded(words: str, code: str | None) -> str:
    return f"{words} [{code}]" if code else words


def clients(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Each client's stage, loss and metrics, and the bytes it has moved in these rounds."""
    live = record["round"]["participants"] if record["round"] else {}
    measured = record["evaluation"]["clients"] if record["evaluation"] else {}
    up: dict[str, int] = {}
    down: dict[str, int] = {}
    for row in rows:
        for name, part in row["participants"].items():
            up[name] = up.get(name, 0) + part["up_bytes"]
            down[name] = down.get(name, 0) + part["down_bytes"]

    def table(shown: Sequence[str], gap: int) -> Table:
        drawn = _table("client", "does", "train loss", *map(heading, shown), "test loss", "up", "down", gap=gap)
        for name in sorted({*live, *measured, *up}):
            now, metrics = live.get(name, {}), measured.get(name, {}).get("metrics", {})
            drawn.add_row(
                name,
                _doing(now),
                number(now.get("train_loss")),
                *(value(metric, metrics) for metric in shown),
                value("loss", metrics),
                size(up.get(name, 0)),
                size(down.get(name, 0)),
            )
        return drawn

    return _fitted(table, _columns(result["metrics"] for result in measured.values()))


def classes(record: Mapping[str, Any]) -> Table | None:
    """Metrics by class, and the confusion matrix where the screen has room; None: nothing to show, or too many."""
    measured, labels = record["evaluation"], record["spec"]["model"]["label_names"]
    if not measured or not (measured["per_class"] or measured["confusion_matrix"]):
        return None
    by_class, matrix = measured["per_class"], measured["confusion_matrix"] or []
    rows = labels or [str(index) for index in range(len(matrix))]
    names = rows if matrix else list(next(iter(by_class.values())))
    if len(names) > MOST_CLASSES:
        return None

    def table(with_matrix: bool) -> Table:
        drawn = _table("class", *map(heading, by_class), *(f"as {name}" for name in names if with_matrix))
        for index, name in enumerate(names):
            counts = [str(count) for count in matrix[index]] if with_matrix else []
            drawn.add_row(name, *(value(metric, {metric: by_class[metric].get(name)}) for metric in by_class), *counts)
        return drawn

    whole = table(bool(matrix))
    return whole if _fits(whole) else _whole(table(False))


def rounds(rows: Sequence[Mapping[str, Any]]) -> Group:
    """A line for each round, and why rounds were abandoned.

    Metrics are of the version that a round started from, on the examples of all its clients.
    """

    def table(shown: Sequence[str], gap: int) -> Table:
        columns = ("round", "phase", "reports", *map(heading, shown), "loss", "up", "down", "up / dense", "time")
        drawn = _table(*columns, gap=gap)
        for row in rows:
            drawn.add_row(*_round(row, shown))
        return drawn

    lost = [f"round {row['number']} was abandoned: {row['reason']}" for row in rows if row["phase"] == "ABANDONED"]
    return Group(_fitted(table, _columns(map(pooled, rows))), *(Text(line, style="red") for line in lost))


def alignment(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """What the clients' optimizer states share, by layer, of the last round that aligned them; None: none did."""
    last = next((row for row in reversed(rows) if row["alignment"]), None)
    if last is None:
        return None
    clients = sorted(next(iter(last["alignment"].values()))["explained"])

    def table(shown: Sequence[str], gap: int) -> Table:
        drawn = _table("layer", "joint rank", "shared", *shown, gap=gap)
        drawn.title, drawn.title_justify = f"Optimizer states of round {last['number']}: what all clients share", "left"
        for layer, found in last["alignment"].items():
            shares = found["explained"]
            mean = sum(shares.values()) / len(shares)
            drawn.add_row(
                layer, f"{found['joint_rank']:.1f}", percent(mean), *(percent(shares[name]) for name in shown)
            )
        return drawn

    return _fitted(table, clients)


def _round(row: Mapping[str, Any], shown: Sequence[str]) -> list[str | Text]:
    """The cells of a round's line."""
    parts = row["participants"].values()
    reported = sum(part["reported"] for part in parts)
    dense = row["dense_bytes"] * reported
    share = row["up_bytes"] / dense if dense and row["kind"] == "train" else None
    return [
        str(row["number"]) if row["kind"] == "train" else f"{row['number']} (test)",
        status(row["phase"]),
        f"{reported} / {len(parts)}",
        *(value(name, pooled(row)) for name in shown),
        value("loss", pooled(row)),
        size(row["up_bytes"]),
        size(row["down_bytes"]),
        percent(share),
        f"{sum(row['phase_s'].values()):.1f} s",
    ]


def _columns(measured: Iterable[Mapping[str, float]]) -> list[str]:
    """The metrics that tables show, but the loss, which has its own place."""
    return listed({name: value for metrics in measured for name, value in metrics.items() if name != "loss"})[:WIDEST]


def _doing(now: Mapping[str, Any]) -> str | Text:
    if not now:
        return "-"
    if now["failure"]:
        return Text(f"failed: {_coded(now['failure'], now['failure_code'])}", "red")
    if now["reported"]:
        return Text("reported", "green")
    step = f" {now['step']}" if now["step"] else ""
    return f"{now['stage'] or 'waiting'}{step}"


def _fitted(table: Callable[[Sequence[str], int], Table], metrics: Sequence[str]) -> Table:
    """The table with as many metrics as the screen has room for; columns move together before one is left out."""
    choices = [table(metrics[:count], gap) for count in range(len(metrics), -1, -1) for gap in (2, 1)]
    return next(filter(_fits, choices), None) or _whole(choices[-1])


def _whole(table: Table) -> Table:
    """The table, its cells on several lines where the screen has no room for them on one."""
    if not _fits(table):
        for column in table.columns:
            column.no_wrap, column.overflow = False, "fold"
    return table


def _fits(table: Table) -> bool:
    out = console()
    return out.measure(table, options=out.options.update_width(10_000)).maximum <= out.width


def _table(*columns: str, gap: int = 2) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column != "reason", overflow="ellipsis")
    return table
