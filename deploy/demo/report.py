"""What the demo shows at its end: tables and a plot, from what REST answered and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from deploy.demo.sites import DemoSite

RoundJson = Mapping[str, Any]  # as GET /jobs/{id}/rounds answers


def accuracy_by_version(rounds: Sequence[RoundJson]) -> dict[int, dict[str, float]]:
    """Accuracy of each evaluated model version on each client's own test texts."""
    table: dict[int, dict[str, float]] = {}
    for entry in rounds:
        for client, one in entry["participants"].items():
            if one["evaluation"]:
                row = table.setdefault(one["evaluation"]["model_version"], {})
                row[client] = one["evaluation"]["metrics"]["accuracy"]
    return dict(sorted(table.items()))


def mean_of(row: Mapping[str, float]) -> float:
    return sum(row.values()) / len(row)


def tables(rounds: Sequence[RoundJson], sites: Sequence[DemoSite], other_s: Mapping[str, float]) -> Group:
    """The result as a terminal shows it. `other_s`: durations outside of rounds, by what they were spent on."""
    return Group(_sites(sites), _accuracy(rounds, sites), _bytes(rounds), _times(rounds, other_s))


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
    table.add_column("mean", justify="right", style="bold")
    majorities = {site.name: site.majority for site in sites}
    table.add_row(
        "majority", *(f"{m:.1%}" for m in majorities.values()), f"{mean_of(majorities):.1%}", end_section=True
    )
    for version, row in accuracy_by_version(rounds).items():
        cells = [f"{row[site.name]:.1%}" if site.name in row else "-" for site in sites]
        table.add_row(str(version), *cells, f"{mean_of(row):.1%}")
    return table


def _bytes(rounds: Sequence[RoundJson]) -> Table:
    table = Table(title="Bytes by client and round, against sending the whole matrices", title_justify="left")
    for column in ("client", "up", "of whole", "down", "of whole", "first round down"):
        table.add_column(column, justify="left" if column == "client" else "right")
    for client, one in traffic(rounds).items():
        shares = (f"{one['up'] / one['whole']:.1%}", f"{one['down'] / one['whole']:.1%}")
        up, down, first_down = (megabytes(one[key]) for key in ("up", "down", "first_down"))
        table.add_row(client, up, shares[0], down, shares[1], first_down)
    table.caption = "The first round also brings the base model down; it is not in the other columns' means"
    return table


def traffic(rounds: Sequence[RoundJson]) -> dict[str, dict[str, float]]:
    """Bytes by client: `first_down` of its first round, mean `up` and `down` of the later ones.

    `whole`: what the trained matrices take when they are sent whole.
    """
    result: dict[str, dict[str, float]] = {}
    trained = [entry for entry in rounds if entry["kind"] == "train" and entry["phase"] == "COMMITTED"]
    for client in sorted({name for entry in trained for name in entry["participants"]}):
        mine = [one["participants"][client] for one in trained if client in one["participants"]]
        first, later = mine[0], mine[1:] or mine
        result[client] = {
            "first_down": first["down_bytes"],
            "up": sum(one["up_bytes"] for one in later) / len(later),
            "down": sum(one["down_bytes"] for one in later) / len(later),
            "whole": trained[0]["dense_bytes"],
        }
    return result


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


def _times(rounds: Sequence[RoundJson], other_s: Mapping[str, float]) -> Table:
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for name, seconds in {**phase_times(rounds), **other_s}.items():
        table.add_row(name, f"{seconds:.1f}")
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


def plot(rounds: Sequence[RoundJson], sites: Sequence[DemoSite], path: Path) -> None:
    """Accuracy by round on the left, by bytes sent up on the right; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    accuracy = accuracy_by_version(rounds)
    versions = list(accuracy)
    means = [mean_of(row) for row in accuracy.values()]
    figure, (by_round, by_bytes) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for site in sites:
        points = [(version, row[site.name]) for version, row in accuracy.items() if site.name in row]
        by_round.plot(*zip(*points, strict=True), linewidth=1, alpha=0.6, label=site.name)
    by_round.plot(versions, means, color="black", linewidth=2.2, label="mean")
    majority = mean_of({site.name: site.majority for site in sites})
    by_round.axhline(majority, color="grey", linestyle=":", linewidth=1.2, label="majority class")
    by_round.set(xlabel="rounds", ylabel="accuracy", ylim=(0.4, 1), title="Accuracy on each site's own test texts")
    by_round.xaxis.get_major_locator().set_params(integer=True)
    by_round.legend(loc="lower right", fontsize=8)

    sent, dense = [0.0], [0.0]
    for entry in (entry for entry in rounds if entry["kind"] == "train" and entry["phase"] == "COMMITTED"):
        count = len([one for one in entry["participants"].values() if one["reported"]])
        sent.append(sent[-1] + entry["up_bytes"] / 1e6)
        dense.append(dense[-1] + count * entry["dense_bytes"] / 1e6)
    moved = [version for version in versions if version > 0]  # before the first round nothing was sent
    reached = [mean_of(accuracy[version]) for version in moved]
    by_bytes.plot([sent[v] for v in moved], reached, "k-o", linewidth=2.2, markersize=3, label="FedGaLore, as sent")
    label = "the same rounds, matrices sent whole"
    by_bytes.plot([dense[v] for v in moved], reached, "r--", linewidth=1.2, label=label)
    by_bytes.axhline(majority, color="grey", linestyle=":", linewidth=1.2)
    by_bytes.set(xlabel="MB sent up, all sites together", xscale="log", title="Mean accuracy by bytes sent")
    by_bytes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
