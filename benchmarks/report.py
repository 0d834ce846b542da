"""Tables and plots of the results in `benchmarks/results`. No run is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite
from pathlib import Path
from statistics import mean, stdev

from benchmarks import equal_bytes
from benchmarks.suites import Entry, Result, chosen_runs, in_words, key_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "RESULTS.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"
LORA = ("fedit", "ffa_lora", "flora", "fedex_lora", "frlora", "fedsvd")
NEAR = 0.9  # of the suite's best validation accuracy: the target that rounds are counted to

Results = Mapping[str, Result]


def write(entries: Sequence[Entry], results: Results, plots: Path, page: Path | None, *, whole: bool = True) -> None:
    """Prints each suite's table, puts it between its markers in the page, and draws its plot.

    Args:
        page: None if no page is to be updated.
        whole: whether `entries` cover all suites; the page's summary is updated only then.
    """
    suites = {suite: list(mine) for suite, mine in groupby(entries, key=lambda entry: entry.suite)}
    for suite, mine in suites.items():
        text = _decade(mine, results) if mine[0].every_rate else _table(mine, results)
        if text:
            print(f"\n{suite}\n{text}")
            if page is not None:
                _replace(page, suite, text)
            _plot(suite, mine, results, plots / f"{suite}.png")
    text = _summary(suites, results)
    print(f"\nsummary\n{text}")
    bytes_text = _equal_bytes(suites, results)
    print(f"\nequal bytes\n{bytes_text}")
    if page is not None and whole:
        _replace(page, "summary", text)
        _replace(page, "equal bytes", bytes_text)


# --- what a run shows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A test metric of a final model, as it is shown; `sign` is -1 where less is better."""

    name: str
    metric: str
    scale: float = 100
    digits: int = 1
    sign: int = 1

    def of(self, run: Result) -> float:
        """The run's value. A run that diverged gets the worst possible value."""
        if run["test"] is None:
            return 0.0 if self.sign > 0 else inf
        return float(run["test"][self.metric])


ACCURACY = Measure("accuracy, %", "accuracy")
ANSWER_LOSS = Measure("answer loss", "loss", scale=1, digits=3, sign=-1)
EXACT_MATCH = Measure("exact match, %", "exact_match")


def _kind(entry: Entry) -> str:
    return str(entry.base["job"].get("method", {}).get("kind", "fedgalore"))


def _is_language(entry: Entry) -> bool:
    return bool(entry.base["job"].get("model", {}).get("task") == "causal-lm")


def _measure(entry: Entry) -> Measure:
    return ANSWER_LOSS if _is_language(entry) else ACCURACY


def _spread(values: Sequence[float], measure: Measure = ACCURACY, sign: str = "") -> str:
    scale, digits = measure.scale, measure.digits
    if not all(map(isfinite, values)):
        return "diverged"
    if len(values) < 2:
        return f"{scale * values[0]:{sign}.{digits}f} (one seed)"
    return f"{scale * mean(values):{sign}.{digits}f} ± {scale * stdev(values):.{digits}f}"


def _rounds_to(target: float, runs: Sequence[Result]) -> str:
    """Rounds until the seeds' mean validation accuracy reaches the target, interpolated between evaluations."""
    means = (
        (float(points[0]["version"]), mean(point["validation"]["accuracy"] for point in points))
        for points in zip(*(run["curve"] for run in runs), strict=False)
    )
    return equal_bytes.whole(equal_bytes.crossing(means, target))


def _target(runs: Sequence[Sequence[Result]]) -> float:
    ends = [
        mean(run["curve"][-1]["validation"]["accuracy"] for run in group if run["curve"]) for group in runs if group
    ]
    return NEAR * max(ends)


# --- tables --------------------------------------------------------------------------------------------------


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]) + "\n"


def _table(entries: Sequence[Entry], results: Results) -> str:
    runs = {entry.name: chosen_runs(entry, results) for entry in entries}
    dense = next((runs[e.name][0]["up_bytes"] for e in entries if _kind(e) == "fedavg" and runs[e.name]), None)
    language = _is_language(entries[0])
    done = [group for group in runs.values() if group]
    if not done:
        return ""
    target = _target(done)
    quality = ["answer loss", "exact match, %"] if language else ["test accuracy, %", f"rounds to {100 * target:.0f} %"]
    head = ["method", "learning rate", *quality, "MB up", "of fedavg's", "MB down", "joint rank", "CPU min"]
    rows = []
    for name, group in runs.items():
        if not group:
            continue
        first = group[0]
        if language:
            shown = [_spread([measure.of(run) for run in group], measure) for measure in (ANSWER_LOSS, EXACT_MATCH)]
        else:
            shown = [_spread([ACCURACY.of(run) for run in group]), _rounds_to(target, group)]
        share = f"{100 * first['up_bytes'] / dense:.1f} %" if dense else ""
        traffic = [f"{first['up_bytes'] / 1e6:.0f}", share, f"{first['down_bytes'] / 1e6:.0f}"]
        rank = str(first["statistics"].get("joint_rank", ""))
        rate = in_words(first["run"]["job"]["local"]["learning_rate"])
        rows.append([name, rate, *shown, *traffic, rank, f"{mean(run['cpu_s'] for run in group) / 60:.1f}"])
    return _rows(head, rows)


def _decade(entries: Sequence[Entry], results: Results) -> str:
    """The first seed's test accuracy at every rate; their best, worst and mean; and all seeds at the chosen rate."""
    grid = entries[0].grid
    cells = {e.name: [_at(e, rate, results) for rate in grid] for e in entries}
    best = {e.name: chosen_runs(e, results) for e in entries}
    done = [group for group in best.values() if group]
    if not done:
        return ""
    target = _target(done)
    head = ["states", *map(in_words, grid), "best", "worst", "mean"]
    head += ["at the chosen rate, all seeds", "against reset", f"rounds to {100 * target:.0f} %"]
    rows = []
    for name, at_rates in cells.items():
        if not best[name]:
            continue
        seen = [100 * ACCURACY.of(run) for run in at_rates if run]
        row = [f"{100 * ACCURACY.of(run):.1f}" if run else "" for run in at_rates]
        row += [f"{max(seen):.1f}", f"{min(seen):.1f}", f"{mean(seen):.1f}"]
        row.append(_spread([ACCURACY.of(run) for run in best[name]]))
        row.append(_difference(best[name], best.get("reset", [])) if name != "reset" else "")
        rows.append([name, *row, _rounds_to(target, best[name])])
    return _rows(head, rows)


def _at(entry: Entry, rate: float | None, results: Results) -> Result | None:
    return results.get(key_of(entry.run(rate, entry.seeds[0])))


def _difference(runs: Sequence[Result], others: Sequence[Result], measure: Measure = ACCURACY) -> str:
    """The difference seed by seed, because runs of the same seed share split and batches."""
    theirs = {run["run"]["job"]["seed"]: measure.of(run) for run in others}
    pairs = [(run, theirs[seed]) for run in runs if (seed := run["run"]["job"]["seed"]) in theirs]
    return _spread([measure.of(run) - other for run, other in pairs], measure, sign="+") if pairs else ""


def _summary(suites: Mapping[str, Sequence[Entry]], results: Results) -> str:
    """FedGaLore at rank 8 against what it is compared with, suite by suite: the best LoRA method of equal rank, as
    published; LoRA with the same momentum, which says what momentum alone does; and fedavg.

    FedGaLore by its defaults, without a rate, where that has been run; the others, and it beside, at the best rate.
    """
    rows = []
    for suite, entries in suites.items():
        runs = {entry.name: chosen_runs(entry, results) for entry in entries}
        default, searched = runs.get("fedgalore r8, no rate", []), runs.get("fedgalore r8", [])
        ours = default or searched
        theirs = {e.name: runs[e.name] for e in entries if _kind(e) in LORA and runs[e.name] and e.name.endswith(" r8")}
        if not ours or not theirs:
            continue
        measure = _measure(entries[0])
        best = max(theirs, key=lambda name: measure.sign * mean(map(measure.of, theirs[name])))
        both = [_spread([*map(measure.of, run)], measure) if run else "" for run in (default, searched)]
        others = [theirs[best], runs.get("flora r8, momentum", []), runs.get("fedavg", [])]
        rows.append([suite, measure.name, *both, best, *(_difference(ours, other, measure) for other in others)])
    against = ["fedgalore against it", "against flora r8 with momentum", "against fedavg"]
    settings = ["fedgalore r8, no rate", "fedgalore r8, searched"]
    return _rows(["suite", "measure", *settings, "best LoRA of rank 8", *against], rows)


def _equal_bytes(suites: Mapping[str, Sequence[Entry]], results: Results) -> str:
    rows = []
    for suite, entries in suites.items():
        runs = {entry.name: chosen_runs(entry, results) for entry in entries}
        measure, done = _measure(entries[0]), [group for group in runs.values() if group]
        if entries[0].every_rate or not done:
            continue
        rivals = [entry.name for entry in entries if _kind(entry) in LORA and "momentum" not in entry.name]
        target = _target(done) if measure is ACCURACY else _least_loss(runs, rivals)
        row = equal_bytes.row(suite, runs, rivals, measure.metric, target, measure.sign)
        rows += [row] if row else []
    return _rows(equal_bytes.HEAD, rows)


def _least_loss(runs: Mapping[str, Sequence[Result]], rivals: Sequence[str]) -> float:
    """What the best of the rivals ends at."""
    return min(mean(run["curve"][-1]["validation"]["loss"] for run in runs[name]) for name in rivals if runs[name])


def _replace(page: Path, suite: str, text: str) -> None:
    begin, end = BEGIN.format(suite), END.format(suite)
    whole = page.read_text() if page.exists() else ""
    if begin not in whole:
        return
    before, rest = whole.split(begin, 1)
    page.write_text(f"{before}{begin}\n{text}{end}{rest.split(end, 1)[1]}")


# --- plots ---------------------------------------------------------------------------------------------------


def _plot(suite: str, entries: Sequence[Entry], results: Results, path: Path) -> None:
    """Validation accuracy, or a language model's answer loss, by round and by bytes sent; mean and range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    language = _is_language(entries[0])
    metric, scale, unit = ("loss", 1, "answer loss") if language else ("accuracy", 100, "validation accuracy, %")
    figure, (by_round, by_bytes) = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for number, entry in enumerate(entries):
        runs = [run for run in chosen_runs(entry, results) if run["test"] is not None]
        if not runs:
            continue
        points = list(zip(*(run["curve"] for run in runs), strict=True))
        versions = [point[0]["version"] for point in points]
        sent = [point[0]["up_bytes"] / 1e6 for point in points]
        values = [[scale * measured["validation"][metric] for measured in point] for point in points]
        style = {"markersize": 3, "marker": "os^vDPX*"[number % 8], "linestyle": "-" if number < 10 else "--"}
        (line,) = by_round.plot(versions, [mean(v) for v in values], label=entry.name, **style)
        by_round.fill_between(versions, [min(v) for v in values], [max(v) for v in values], alpha=0.12)
        by_bytes.plot(sent[1:], [mean(v) for v in values[1:]], color=line.get_color(), **style)
    by_round.set(xlabel="rounds", ylabel=unit, title=suite)
    by_round.xaxis.get_major_locator().set_params(integer=True)
    by_bytes.set(xlabel="MB sent up, all clients together", xscale="log")
    by_round.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
