"""What the demo shows at its end: tables and a plot, from what REST answered and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from fedgalore.methods.fedgalore.layout import method_of
from fedgalore.spec.job import parse
from fedgalore_cli.demo.job import SEARCHED_RATES
from fedgalore_cli.demo.sites import DemoSite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "fedgalore": "FedGaLore",
    "fedavg": "FedAvg",
    "fedit": "FedIT",
    "ffa_lora": "FFA-LoRA",
    "flora": "FLoRA",
    "fedex_lora": "FedEx-LoRA",
    "frlora": "FRLoRA",
    "fedsvd": "FedSVD",
}
STATES = {
    "reset": "each round begins without optimizer states",
    "ajive": "each round begins with what the sites' optimizer states share, aligned by AJIVE",
    "average": "each round begins with the mean of the sites' optimizer states",
    "local": "each site keeps its own optimizer states",
}
COLOURS = ("black", "tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")

RoundJson = Mapping[str, Any]  # as GET /jobs/{id}/rounds answers


@dataclass(frozen=True)
class Run:
    """A method's job as it was posted, and its rounds. `preparing_s`: seconds of the job outside of its rounds."""

    job: Mapping[str, Any]
    rounds: Sequence[RoundJson]
    preparing_s: float

    @property
    def name(self) -> str:
        return NAMES[self.job["method"]["kind"]]


def accuracy_by_version(rounds: Sequence[RoundJson]) -> dict[int, dict[str, float]]:
    """Accuracy of each evaluated model version on each client's own test texts."""
    table: dict[int, dict[str, float]] = {}
    for entry in rounds:
        for client, part in entry["participants"].items():
            if part["evaluation"]:
                row = table.setdefault(part["evaluation"]["model_version"], {})
                row[client] = part["evaluation"]["metrics"]["accuracy"]
    return dict(sorted(table.items()))


def pooled_accuracy(rounds: Sequence[RoundJson]) -> dict[int, float]:
    """Accuracy of each evaluated model version on the test texts of all clients."""
    measured = [entry for entry in rounds if entry["evaluation"]]
    return {entry["model_version"]: entry["evaluation"]["metrics"]["accuracy"] for entry in measured}


def mean_of(row: Mapping[str, float]) -> float:
    return sum(row.values()) / len(row)


def states(document: Mapping[str, Any]) -> str:
    """What a round of the job begins with where AdamW's second moments are concerned."""
    method = method_of(parse(document))
    return f"{STATES[method.state_sync]} (method.state_sync: {method.state_sync})"


def tables(runs: Sequence[Run], sites: Sequence[DemoSite], other_s: Mapping[str, float]) -> Group:
    """The result as a terminal shows it: one run site by site, or several side by side.

    `other_s`: durations outside of all jobs, by what they were spent on.
    """
    if len(runs) == 1:
        shown = (_accuracy(runs[0].rounds, sites), _bytes(runs[0].rounds))
    else:
        shown = (_accuracy_by_method(runs, sites), _bytes_by_method(runs))
    return Group(_sites(sites), *shown, _times(runs, other_s))


def _sites(sites: Sequence[DemoSite]) -> Table:
    table = Table(title="What each site holds", title_justify="left")
    domains = sorted({domain for site in sites for domain in site.domains})
    for column in ("site", "training texts", *domains, "positive"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for site in sites:
        counts = [str(site.domains.get(domain, 0)) for domain in domains]
        table.add_row(site.name, str(len(site.train)), *counts, f"{site.positive_share:.0%}")
    return table


def _accuracy(rounds: Sequence[RoundJson], sites: Sequence[DemoSite]) -> Table:
    table = Table(title="Accuracy on each site's own test texts, by rounds behind the model", title_justify="left")
    table.add_column("rounds", justify="right")
    for site in sites:
        table.add_column(site.name, justify="right")
    table.add_column("all texts", justify="right", style="bold")
    majorities = {site.name: site.majority for site in sites}
    table.add_row(
        "majority", *(f"{m:.1%}" for m in majorities.values()), f"{mean_of(majorities):.1%}", end_section=True
    )
    together = pooled_accuracy(rounds)
    for version, row in accuracy_by_version(rounds).items():
        cells = [f"{row[site.name]:.1%}" if site.name in row else "-" for site in sites]
        table.add_row(str(version), *cells, f"{together[version]:.1%}")
    return table


def _accuracy_by_method(runs: Sequence[Run], sites: Sequence[DemoSite]) -> Table:
    table = Table(title="Accuracy on the test texts of all sites", title_justify="left")
    table.add_column("rounds", justify="right")
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_row("majority", *[f"{_majority(sites):.1%}"] * len(runs), end_section=True)
    curves = [pooled_accuracy(run.rounds) for run in runs]
    for version in sorted({version for curve in curves for version in curve}):
        table.add_row(str(version), *(f"{curve[version]:.1%}" if version in curve else "-" for curve in curves))
    return table


def _majority(sites: Sequence[DemoSite]) -> float:
    return mean_of({site.name: site.majority for site in sites})


def _bytes(rounds: Sequence[RoundJson]) -> Table:
    table = Table(title="Bytes by client and round, against sending the whole matrices", title_justify="left")
    for column in ("client", "up", "of whole", "down", "of whole", "first round down"):
        table.add_column(column, justify="left" if column == "client" else "right")
    for client, means in traffic(rounds).items():
        shares = (f"{means['up'] / means['whole']:.1%}", f"{means['down'] / means['whole']:.1%}")
        up, down, first_down = (megabytes(means[key]) for key in ("up", "down", "first_down"))
        table.add_row(client, up, shares[0], down, shares[1], first_down)
    table.caption = "The first round also brings the base model down; it is not in the other columns' means"
    return table


def _bytes_by_method(runs: Sequence[Run]) -> Table:
    table = Table(title="What each method sent by client and round, and how it was set", title_justify="left")
    for column in ("method", "up", "of whole", "down", "of whole", "rank", "learning rate"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for run in runs:
        clients = traffic(run.rounds)
        up, down, whole = (
            mean_of({name: means[key] for name, means in clients.items()}) for key in ("up", "down", "whole")
        )
        settings = (str(run.job["method"].get("rank", "-")), _rate_of(run))
        table.add_row(run.name, megabytes(up), f"{up / whole:.1%}", megabytes(down), f"{down / whole:.1%}", *settings)
    table.caption = "All else is equal. Learning rates: FedGaLore's follows the model, FedIT's was searched"
    return table


def _rate_of(run: Run) -> str:
    rate = run.job["local"].get("learning_rate")
    if rate is None:
        return "not named"
    return f"{rate:g}" if run.job["method"]["kind"] in SEARCHED_RATES else f"{rate:g} (not searched)"


def traffic(rounds: Sequence[RoundJson]) -> dict[str, dict[str, float]]:
    """Bytes by client: `first_down` of its first round, mean `up` and `down` of the later ones.

    `whole`: what the trained matrices take when they are sent whole.
    """
    result: dict[str, dict[str, float]] = {}
    trained = [entry for entry in rounds if entry["kind"] == "train" and entry["phase"] == "COMMITTED"]
    for client in sorted({name for entry in trained for name in entry["participants"]}):
        mine = [entry["participants"][client] for entry in trained if client in entry["participants"]]
        first, later = mine[0], mine[1:] or mine
        result[client] = {
            "first_down": first["down_bytes"],
            "up": sum(part["up_bytes"] for part in later) / len(later),
            "down": sum(part["down_bytes"] for part in later) / len(later),
            "whole": trained[0]["dense_bytes"],
        }
    return result


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


def _times(runs: Sequence[Run], other_s: Mapping[str, float]) -> Table:
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("phase")
    for run in runs if len(runs) > 1 else ():
        table.add_column(run.name, justify="right")
    table.add_column("seconds", justify="right")
    spent = [{**phase_times(run.rounds), "preparing the model": run.preparing_s} for run in runs]
    for name in dict.fromkeys(name for phases in spent for name in phases):
        cells = [phases.get(name, 0.0) for phases in spent]
        table.add_row(name, *(f"{seconds:.1f}" for seconds in (cells if len(runs) > 1 else [])), f"{sum(cells):.1f}")
    for name, seconds in other_s.items():
        table.add_row(name, *[""] * (len(runs) if len(runs) > 1 else 0), f"{seconds:.1f}")
    return table


def phase_times(rounds: Sequence[RoundJson]) -> dict[str, float]:
    """Seconds by phase, summed over the rounds."""
    total: dict[str, float] = {}
    for entry in rounds:
        for phase, seconds in entry["phase_s"].items():
            name = phase.lower() if entry["kind"] == "train" else "final evaluation"
            if name == "reporting":
                name = "reporting (local evaluation, training, upload)"
            total[name] = total.get(name, 0.0) + seconds
    return total


def plot(runs: Sequence[Run], sites: Sequence[DemoSite]) -> Figure:
    """Accuracy by round on the left, by bytes sent up on the right.

    A single run is drawn with each site's own curve, and with the bytes that whole matrices would have taken. Of
    several runs the accuracy on all texts is drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    if len(runs) == 1:
        _draw_alone(runs[0], sites, by_round, by_bytes)
    else:
        for run, colour in zip(runs, COLOURS, strict=False):
            by_round.plot(
                *zip(*pooled_accuracy(run.rounds).items(), strict=True),
                "-o",
                color=colour,
                markersize=3,
                label=run.name,
            )
            by_bytes.plot(*_by_bytes(run, "up_bytes"), "-o", color=colour, markersize=3, label=run.name)
    for axes, label in ((by_round, "majority class"), (by_bytes, None)):
        axes.axhline(_majority(sites), color="grey", linestyle=":", linewidth=1.2, label=label)
        axes.legend(loc="lower right", fontsize=8)
    title = "Accuracy on each site's own test texts" if len(runs) == 1 else "Accuracy on the test texts of all sites"
    by_round.set(xlabel="rounds", ylabel="accuracy", ylim=(0.4, 1), title=title)
    by_round.xaxis.get_major_locator().set_params(integer=True)
    by_bytes.set(xlabel="MB sent up, all sites together", xscale="log", title="Accuracy by bytes sent")
    by_bytes.xaxis.set_major_formatter("{x:g}")
    return figure


def _draw_alone(run: Run, sites: Sequence[DemoSite], by_round: Axes, by_bytes: Axes) -> None:
    accuracy = accuracy_by_version(run.rounds)
    for site in sites:
        points = [(version, row[site.name]) for version, row in accuracy.items() if site.name in row]
        by_round.plot(*zip(*points, strict=True), linewidth=1, alpha=0.6, label=site.name)
    by_round.plot(*zip(*pooled_accuracy(run.rounds).items(), strict=True), color="black", linewidth=2.2, label="all")
    by_bytes.plot(*_by_bytes(run, "up_bytes"), "k-o", linewidth=2.2, markersize=3, label=f"{run.name}, as sent")
    label = "the same rounds, matrices sent whole"
    by_bytes.plot(*_by_bytes(run, "dense_bytes"), "r--", linewidth=1.2, label=label)


def _by_bytes(run: Run, counted: str) -> tuple[list[float], list[float]]:
    """MB sent up by all clients before each evaluated version but the first, and its accuracy.

    Args:
        counted: "up_bytes" for what was sent, "dense_bytes" for whole matrices in its place.
    """
    sent = [0.0]
    for entry in (entry for entry in run.rounds if entry["kind"] == "train" and entry["phase"] == "COMMITTED"):
        count = len([part for part in entry["participants"].values() if part["reported"]])
        sent.append(sent[-1] + entry[counted] * (count if counted == "dense_bytes" else 1) / 1e6)
    reached = {version: share for version, share in pooled_accuracy(run.rounds).items() if version > 0}
    return [sent[version] for version in reached], list(reached.values())
