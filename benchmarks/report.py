"""Tables and plots of what stands in `benchmarks/results`; nothing is computed anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.accuracy import Entry, Result, Store

PAGE = Path(__file__).resolve().parent.parent / "docs" / "RESULTS.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def write(entries: Sequence[Entry], store: Store, plots: Path) -> None:
    """Prints each suite's table, puts it between its markers in `docs/RESULTS.md`, and draws its plot."""
    for suite, mine in groupby(entries, key=lambda entry: entry.suite):
        results = store.of(suite)
        rows = {entry.name: (entry, results) for entry in mine}
        text = (_decade if any(entry.every_rate for entry, _ in rows.values()) else _table)(rows)
        if not text:
            continue
        print(f"\n{suite}\n{text}")
        _replace(suite, text)
        _plot(suite, rows, plots / f"{suite}.png")


def chosen_runs(entry: Entry, results: Mapping[str, Result]) -> list[Result]:
    """The finished runs at the entry's chosen rate, one a seed; none while the rate is not found."""
    from benchmarks.accuracy import key_of, walk

    left, best = walk(entry, results)
    if left:
        return []
    keys = [key_of(entry.run(best, seed)) for seed in entry.seeds]
    return [results[key] for key in keys if key in results]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{100 * values[0]:.1f} (one seed)"
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"


def _tests(runs: Sequence[Result]) -> list[float]:
    return [run["test"] if run["test"] is not None else 0.0 for run in runs]


def _table(rows: Mapping[str, tuple[Entry, Mapping[str, Result]]]) -> str:
    runs = {name: chosen_runs(*row) for name, row in rows.items()}
    dense = next((r[0]["up_bytes"] for name, r in runs.items() if r and _kind(r[0]) == "fedavg"), None)
    lines = [
        "| method | learning rate | test accuracy, % | MB up | of fedavg's | MB down | joint rank | CPU min |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        if not found:
            continue
        first = found[0]
        rate = first["run"]["job"]["local"]["learning_rate"]
        share = f"{100 * first['up_bytes'] / dense:.1f} %" if dense else ""
        rank = first["statistics"].get("joint_rank", "")
        minutes = mean(run["cpu_s"] for run in found) / 60
        cells = [name, f"{rate:g}", _spread(_tests(found)), f"{first['up_bytes'] / 1e6:.0f}", share]
        lines.append(
            "| " + " | ".join([*cells, f"{first['down_bytes'] / 1e6:.0f}", str(rank), f"{minutes:.1f}"]) + " |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _kind(result: Result) -> str:
    return str(result["run"]["job"].get("method", {}).get("kind", "fedgalore"))


def _decade(rows: Mapping[str, tuple[Entry, Mapping[str, Result]]]) -> str:
    """Mean over seeds at every rate of the grid, and best, worst and mean over the decade around the best."""
    from benchmarks.accuracy import key_of

    grid = next(iter(rows.values()))[0].grid
    lines = [
        "| states | " + " | ".join(f"{rate:g}" for rate in grid) + " | best | worst in a decade | mean of the decade |",
        "|---" * (len(grid) + 4) + "|",
    ]
    for name, (entry, results) in rows.items():
        found = [
            _tests([results[key] for seed in entry.seeds if (key := key_of(entry.run(rate, seed))) in results])
            for rate in grid
        ]
        means = {rate: mean(values) for rate, values in zip(grid, found, strict=True) if values}
        if not means:
            continue
        best = max(means, key=lambda rate: means[rate])
        decade = [means[rate] for rate in means if best / 10**0.5 <= rate <= best * 10**0.5]
        cells = [_spread(values) if values else "" for values in found]
        summary = [f"{100 * means[best]:.1f}", f"{100 * min(decade):.1f}", f"{100 * mean(decade):.1f}"]
        lines.append("| " + " | ".join([name, *cells, *summary]) + " |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _replace(suite: str, text: str) -> None:
    begin, end = BEGIN.format(suite), END.format(suite)
    page = PAGE.read_text() if PAGE.exists() else ""
    if begin not in page:
        return
    before, rest = page.split(begin, 1)
    PAGE.write_text(f"{before}{begin}\n{text}{end}{rest.split(end, 1)[1]}")


def _plot(suite: str, rows: Mapping[str, tuple[Entry, Mapping[str, Result]]], path: Path) -> None:
    """Validation accuracy by round and by megabytes sent up, mean and range over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (by_round, by_bytes) = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for name, row in rows.items():
        runs = [run for run in chosen_runs(*row) if run["test"] is not None]
        if not runs:
            continue
        points = list(zip(*(run["curve"] for run in runs), strict=True))
        versions = [point[0]["version"] for point in points]
        sent = [point[0]["up_bytes"] / 1e6 for point in points]
        values = [[100 * one["validation"] for one in point] for point in points]
        (line,) = by_round.plot(versions, [mean(v) for v in values], "-o", markersize=3, label=name)
        by_round.fill_between(versions, [min(v) for v in values], [max(v) for v in values], alpha=0.15)
        by_bytes.plot(sent[1:], [mean(v) for v in values[1:]], "-o", markersize=3, color=line.get_color())
    by_round.set(xlabel="rounds", ylabel="validation accuracy, %", title=suite)
    by_bytes.set(xlabel="MB sent up, all clients together", xscale="log")
    by_round.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
