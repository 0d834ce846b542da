"""How few directions a gradient has, and whose they are."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.pictures import sites
from benchmarks.pictures.style import BLUE, GREY, ORANGE, figure
from fedgalore.maths.projector import range_basis

WIRE = 60  # directions of a change that travel at rank 8, 7.5 for each


def draw(to: Path) -> None:
    """Left: the share of a gradient in its leading directions. Right: in 8 directions of another's choice."""
    task = sites.model(sites.job())
    task.model.eval()
    of_sites = [next(sites.gradients(task, site, 1)) for site in sites.sites()]
    with figure(to, 2, 9.5, 3.6) as (left, right):
        shares = torch.stack([_cumulative(gradient) for gradient in of_sites[0].values()])  # (matrices, directions)
        count = torch.arange(1, WIRE + 1)
        low, middle, high = (shares[:, :WIRE].quantile(q, dim=0) for q in (0.1, 0.5, 0.9))
        left.fill_between(count, low, high, color=BLUE, alpha=0.2, linewidth=0, label="8 of 10 matrices")
        left.plot(count, middle, color=BLUE, label="median of the 36 matrices")
        left.axvline(sites.RANK, color=GREY, linestyle=":")
        left.annotate(
            f"rank 8: {middle[sites.RANK - 1]:.0%}", (sites.RANK + 1, middle[sites.RANK - 1] - 0.08), color="#333333"
        )
        left.set(title="Share of a gradient's energy", xlabel="leading directions, of 384", ylim=(0, 1.02))
        left.yaxis.set_major_formatter("{x:.0%}")
        left.legend(loc="lower right")

        bars = _by_whose_directions(of_sites)
        right.barh(list(bars), list(bars.values()), color=[BLUE, ORANGE, GREY], height=0.6)
        for place, share in enumerate(bars.values()):
            right.text(share + 0.02, place, f"{share:.0%}", va="center")
        right.invert_yaxis()
        right.set(title="The same, inside 8 directions that were chosen by", xlim=(0, 1.1))
        right.xaxis.set_major_formatter("{x:.0%}")


def _cumulative(gradient: Tensor) -> Tensor:
    energies = torch.linalg.svdvals(gradient.double()).square()
    return energies.cumsum(0) / energies.sum()


def _by_whose_directions(of_sites: list[dict[str, Tensor]]) -> dict[str, float]:
    """Median over sites and matrices."""
    generator = torch.Generator().manual_seed(0)
    own, others, chance = [], [], []
    for name in of_sites[0]:
        gradients = [gradient[name] for gradient in of_sites]
        bases = [range_basis(gradient, sites.RANK, generator) for gradient in gradients]
        for i, gradient in enumerate(gradients):
            shares = [_inside(basis, gradient) for basis in bases]
            own.append(shares.pop(i))
            others += shares
            random = torch.linalg.qr(torch.randn(gradient.shape[0], sites.RANK, generator=generator))[0]
            chance.append(_inside(random, gradient))
    names = ("the site itself", "another site", "chance, as an\nadapter's start")
    return dict(zip(names, map(median, (own, others, chance)), strict=True))


def _inside(basis: Tensor, gradient: Tensor) -> float:
    return float((basis.T @ gradient).square().sum() / gradient.square().sum())
