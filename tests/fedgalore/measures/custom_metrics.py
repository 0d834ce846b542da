"""Metrics as another package would bring them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torchmetrics import SpearmanCorrCoef
from torchmetrics.classification import MulticlassFBetaScore

from tests.fedgalore.measures.top_two import TopTwo

F_BETA = MulticlassFBetaScore(num_classes=3, beta=2.0, average="macro")


class Moody(TopTwo):
    def value(self, sums: Mapping[str, float]) -> float:
        raise RuntimeError("not today")


class Forgetful(TopTwo):
    def count(self, scores: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"right": 1.0}


RANKS = SpearmanCorrCoef
NOTHING = 3
