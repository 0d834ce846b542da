"""Clients that attack the training, as `fedgalore.simulation.Site` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.deltas import decoded
from fedgalore.maths.compression import rounded
from fedgalore.maths.seeding import derive_seed
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound
from fedgalore.simulation import Site
from fedgalore.spec.layout import update_tensors
from fedgalore.training import Update, local_update

SCALE = 100.0


def corrupted(site: Site, attack: str) -> Site:
    """The site as an attacker.

    Raises:
        ValueError: there is no attack of this name.
    """
    if attack == "shuffled-labels":
        labels = [example["label"] for example in site.train]
        order = np.random.default_rng(derive_seed(0, attack, site.name)).permutation(len(labels))
        return replace(site, train=[{**e, "label": labels[i]} for e, i in zip(site.train, order, strict=True)])
    if attack not in _UPDATES:
        raise ValueError(f"attack: there is no attack {attack!r}; known: shuffled-labels, {', '.join(_UPDATES)}")
    return replace(site, local_update=_UPDATES[attack])


class _Scaled:
    """A task whose loss, and so every gradient, is `SCALE` times too large."""

    def __init__(self, task: TaskModel) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def loss(self, batch: Any, class_weights: Tensor | None = None) -> tuple[Tensor, int, int | None]:
        loss, count, hits = self._task.loss(batch, class_weights)
        return SCALE * loss, count, hits


def _scaled_gradients(round: LocalRound, examples: Sequence[Example]) -> Update:
    return local_update(replace(round, task=_Scaled(round.task)), examples)  # type: ignore[arg-type]


def _noise(round: LocalRound, examples: Sequence[Example]) -> Update:
    """An update of Gaussian noise. Each tensor keeps its norm, and second moments stay positive."""
    update = local_update(round, examples)
    generator = torch.Generator().manual_seed(derive_seed(round.spec.seed, "noise", round.client, round.number))
    listed = update_tensors(round.spec, round.task.plan, round.client, round.number)
    read, tensors = decoded(update.tensors.__getitem__, listed), {}
    for name in update.tensors:
        tensor = read(name)
        drawn = torch.randn(tensor.shape, generator=generator)
        kind, norm = name.rsplit("/", 1)[1], tensor.norm()
        if kind == "left" or kind.startswith("basis"):
            drawn = torch.linalg.qr(drawn)[0].contiguous()
        elif kind in ("rms", "residual"):
            drawn = drawn.abs() * (norm / drawn.norm())
        else:
            drawn = drawn * (norm / drawn.norm())
        tensors[name] = rounded(drawn, listed[name].quantization).wire
    return replace(update, tensors=tensors)


_UPDATES: dict[str, Callable[..., Update]] = {"scaled-gradients": _scaled_gradients, "noise": _noise}
