"""The training loss that leaves the site while a round is trained. Pure."""

from __future__ import annotations

from math import ceil, nan


class ToldLoss:
    """Means over stretches of steps that lie side by side, so that no two of them tell the loss of a few examples."""

    def __init__(self, steps: int, batch_size: int, least_examples: int) -> None:
        """`steps` of `batch_size` examples are to come; a mean is told of at least `least_examples`."""
        self._left, self._least = steps, ceil(least_examples / batch_size)
        self._untold: list[float] = []
        self._told = nan

    def after(self, loss: float) -> float:
        """Takes a step's loss. The mean of the last whole stretch; NaN before the first."""
        self._left -= 1
        self._untold.append(loss)
        rest_is_told = self._left == 0 or self._left >= self._least  # else it could be taken from the round's mean
        if len(self._untold) >= self._least and rest_is_told:
            self._told = sum(self._untold) / len(self._untold)
            self._untold = []
        return self._told
