"""Bytes of a round, each way, by method: the sizes of the files that the codec writes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.pictures import sites
from benchmarks.pictures.style import BLUE, ORANGE, figure
from fedgalore.sizing import site_needs
from fedgalore_cli.demo.report import NAMES

KINDS = ("fedavg", "fedgalore", "fedit", "ffa_lora", "flora", "fedex_lora")


def draw(to: Path) -> None:
    """A pair of bars a method: what one site gets and sends in a round."""
    needs = {}
    for kind in KINDS:
        task = sites.model(sites.job(kind))
        needs[NAMES[kind]] = site_needs(task.spec, task.plan, 0)
    with figure(to, 1, 9.5, 3.6) as axes:
        for offset, way, colour, label in (
            (-0.2, "down", ORANGE, "down, to a site"),
            (0.2, "up", BLUE, "up, from a site"),
        ):
            sizes = [getattr(need, way) / 1e6 for need in needs.values()]
            places = [place + offset for place in range(len(needs))]
            axes.barh(places, sizes, height=0.38, color=colour, label=label)
            for place, size in zip(places, sizes, strict=True):
                axes.text(
                    size * 1.06, place, f"{size:.1f} MB" if size < 10 else f"{size:.0f} MB", va="center", fontsize=9
                )
        axes.set_yticks(range(len(needs)), list(needs))
        axes.invert_yaxis()
        axes.set(
            xscale="log",
            title="Bytes of a round: MiniLM, 22 million parameters, rank 8",
            xlabel="MB, each step ten times as much",
        )
        axes.set_xlim(0.3, 250)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower right")
