"""What the sites' second moments share: AJIVE on real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pictures import sites
from benchmarks.pictures.style import BLUE, GREY, ORANGE, RED, figure
from fedgalore.maths.projector import range_basis
from fedgalore.maths.shared_signal import SharedSignal, extract

BATCHES = 5
KIND = "intermediate.dense.weight"
SHOWN = f"encoder.layer.3.{KIND}"


def draw(to: Path) -> None:
    """Left: how the directions of one matrix are told apart. Right: what each site's second moments are made of."""
    task = sites.model(sites.job())
    task.model.eval()
    names = [name for name in task.targets() if name.endswith(KIND)]
    of_sites = [
        [{name: batch[name] for name in names} for batch in sites.gradients(task, site, BATCHES)]
        for site in sites.sites()
    ]
    blocks = torch.stack([_second_moments([[batch[name] for batch in site] for site in of_sites]) for name in names])
    signal = extract(blocks)
    with figure(to, 2, 9.5, 3.6) as (left, right):
        _directions(left, signal, next(place for place, name in enumerate(names) if name.endswith(SHOWN)))
        _parts(right, signal, blocks)


def _second_moments(gradients: list[list[Tensor]]) -> Tensor:
    """`(M, r, k)`: by site the mean square of the gradients in a basis that all sites have."""
    mean = torch.stack([batch for site in gradients for batch in site]).mean(0)
    basis = range_basis(mean, sites.RANK, torch.Generator().manual_seed(0))
    return torch.stack([torch.stack([(basis.T @ batch).square() for batch in site]).mean(0) for site in gradients])


def _directions(axes: Any, signal: SharedSignal, place: int) -> None:
    values = signal.squared_values[place]
    count = int(signal.joint_rank[place])
    bound = float(torch.maximum(signal.wedin_bound, signal.random_bound)[place])
    colours = [BLUE] * count + [GREY] * (len(values) - count)
    axes.bar(range(1, len(values) + 1), values, color=colours)
    axes.axhline(bound, color=RED, linestyle="--")
    axes.text(len(values) + 0.5, bound + 0.06, "chance reaches this", color=RED, ha="right")
    axes.set(title="How many of the 4 sites have a direction", xlabel="candidates of one matrix", ylim=(0, 4.2))


def _parts(axes: Any, signal: SharedSignal, blocks: Tensor) -> None:
    whole = blocks.double().square().sum((0, 2, 3))
    parts = [part.square().sum((0, 2, 3)) / whole for part in signal.split(blocks)]
    start = torch.zeros(blocks.shape[1])
    names = [site.name for site in sites.sites()]
    for part, colour, label in zip(
        parts, (BLUE, ORANGE, GREY), ("joint: all sites have it", "its own", "noise"), strict=True
    ):
        axes.barh(names, part, left=start, color=colour, height=0.6, label=label)
        start = start + part
    axes.invert_yaxis()
    axes.set(title="What a site's second moments are made of", xlim=(0, 1))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncol=3)
