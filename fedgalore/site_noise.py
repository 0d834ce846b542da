"""Differential privacy that a site gives itself, towards everybody: its change is cut and covered with noise.

Between training and packing, the change of all that moved, as one vector, is cut to a norm of at most `C` and gets
Gaussian noise of standard deviation `z C` at each coordinate. What is made of it then (leading parts, codes, what is
kept for the next update) and whatever a server does with it tells no more. So it holds for the methods whose updates
follow from the parameters alone: `MethodSpec.told_by_parameters`.

Whatever else the site's data were, the change would be another vector of that length, at most `2 C` away. So a round
costs what a Gaussian mechanism of noise `z / 2` costs: `fedgalore.maths.privacy.epsilon_of_site`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from fedgalore.maths.mean import squared_norm
from fedgalore.maths.privacy import fresh_noise
from fedgalore.methods.halves import LocalTraining, Moved
from fedgalore.rounds import LocalRound

ROUNDING = 1e-9  # so that a change that was cut is never longer than `C`


class ChangeNotFinite(ValueError):
    """What training made of the parameters has no norm."""


@dataclass(frozen=True)
class SiteNoise:
    """`clip_norm`: `C`; `noise_multiplier`: `z`; `charge`: notes a release before its noise is drawn."""

    clip_norm: float
    noise_multiplier: float
    charge: Callable[[], None]


@torch.no_grad()
def cover(round: LocalRound, training: LocalTraining, noise: SiteNoise) -> None:
    """Cuts and covers what training has moved, in place.

    Raises:
        ChangeNotFinite: nothing was charged.
    """
    norm = sqrt(sum(squared_norm(moved.change()) for moved in _moved(round, training)))
    if not isfinite(norm):
        raise ChangeNotFinite("the change holds NaN or infinite values")
    share = min(1.0, noise.clip_norm / norm * (1 - ROUNDING)) if norm else 1.0
    noise.charge()
    deviation = noise.noise_multiplier * noise.clip_norm
    for moved in _moved(round, training):
        drawn = fresh_noise(tuple(moved.parameter.shape), deviation).to(moved.parameter.device)
        moved.parameter.copy_(moved.unmoved() + share * moved.change() + drawn)


def _moved(round: LocalRound, training: LocalTraining) -> Iterator[Moved]:
    for target in round.task.plan.targets:
        yield from training.moved(target)
    for item in round.task.plan.dense:
        yield Moved.of(round, item, round.task.dense()[item.name])
