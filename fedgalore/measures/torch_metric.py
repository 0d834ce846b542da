"""A metric of torchmetrics as counts in a row."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_sum

from fedgalore.measures.custom import CustomMetricError
from fedgalore.measures.formulas import Array


class Summed:
    """Its states, one after the other in the order of their names."""

    def __init__(self, path: str, metric: Metric) -> None:
        self._metric = metric
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name, reduction in sorted(metric._reductions.items()):
            state = getattr(metric, name)
            if reduction is not dim_zero_sum or not isinstance(state, Tensor):
                raise CustomMetricError(
                    f"metrics: {path} has the state {name}, which is not summed over sites; "
                    'take a metric whose states all have dist_reduce_fx="sum"'
                )
            self._shapes[name] = tuple(state.shape)
        self.size = sum(map(math.prod, self._shapes.values()))

    def count(self, scores: Tensor, targets: Tensor) -> Array:
        metric = copy.deepcopy(self._metric)
        metric.reset()
        metric.update(scores, targets)
        states = [getattr(metric, name).double().numpy().ravel() for name in self._shapes]
        return np.concatenate([np.zeros(0), *states])

    def value(self, sums: Array) -> float:
        metric, at = copy.deepcopy(self._metric), 0
        metric.reset()
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            state = torch.from_numpy(sums[at : at + size].copy()).reshape(shape)
            setattr(metric, name, state.to(getattr(metric, name).dtype))
            at += size
        metric._update_count = 1  # or compute() warns that nothing was counted
        return float(metric.compute())
