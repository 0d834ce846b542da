"""One job, drawn: where it stands, its clients, classes, rounds and the alignment of its optimizer states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedgalore.spec.amounts import size
from fedgalore.spec.census import Census
from fedgalore_cli.show.console import console, fits, fitted, table, whole
from fedgalore_cli.words import heading, listed, number, percent, pooled, status, value

MOST_CLASSES = 30  # of a table; REST has all of them
WIDEST = 4  # metrics beside the loss in a table; all of them stand in the headline


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

    def draw(shown: Sequence[str], gap: int) -> Table:
        drawn = table("client", "does", "train loss", *map(heading, shown), "test loss", "up", "down", gap=gap)
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

    return fitted(draw, _columns(result["metrics"] for result in measured.values()))


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

    def draw(with_matrix: bool) -> Table:
        drawn = table("class", *map(heading, by_class), *(f"as {name}" for name in names if with_matrix))
        for index, name in enumerate(names):
            counts = [str(count) for count in matrix[index]] if with_matrix else []
            drawn.add_row(name, *(value(metric, {metric: by_class[metric].get(name)}) for metric in by_class), *counts)
        return drawn

    complete = draw(bool(matrix))
    return complete if fits(complete) else whole(draw(False))


def rounds(rows: Sequence[Mapping[str, Any]]) -> Group:
    """A line for each round, and why rounds were abandoned.

    Metrics are of the version that a round started from, on the examples of all its clients.
    """

    def draw(shown: Sequence[str], gap: int) -> Table:
        columns = ("round", "phase", "reports", *map(heading, shown), "loss", "up", "down", "up / dense", "time")
        drawn = table(*columns, gap=gap)
        for row in rows:
            drawn.add_row(*_round(row, shown))
        return drawn

    lost = [f"round {row['number']} was abandoned: {row['reason']}" for row in rows if row["phase"] == "ABANDONED"]
    return Group(fitted(draw, _columns(map(pooled, rows))), *(Text(line, style="red") for line in lost))


def alignment(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """What the clients' optimizer states share, by layer, of the last round that aligned them; None: none did."""
    last = next((row for row in reversed(rows) if row["alignment"]), None)
    if last is None:
        return None
    clients = sorted(next(iter(last["alignment"].values()))["explained"])

    def draw(shown: Sequence[str], gap: int) -> Table:
        drawn = table("layer", "joint rank", "shared", *shown, gap=gap)
        drawn.title, drawn.title_justify = f"Optimizer states of round {last['number']}: what all clients share", "left"
        for layer, found in last["alignment"].items():
            shares = found["explained"]
            mean = sum(shares.values()) / len(shares)
            drawn.add_row(
                layer, f"{found['joint_rank']:.1f}", percent(mean), *(percent(shares[name]) for name in shown)
            )
        return drawn

    return fitted(draw, clients)


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
