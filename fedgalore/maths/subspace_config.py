"""Hyperparameters of GaLoreAdamW, and which values they may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite, nan
from numbers import Integral, Real
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True)
class SubspaceConfig:
    """Hyperparameters of a step; `fedgalore.maths.optim.GaLoreAdamW` says what each of them does."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    scale: float = 1.0
    complement: float = 0.0
    basis_pool: int = 6
    update_proj_gap: int = 200
    prior_steps: float | None = 2.0
    update_clip: float | None = 1.0

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Self:
        """What a parameter group holds at this moment: a scheduler may have moved its learning rate."""
        return cls(**{field.name: group[field.name] for field in fields(cls)} | {"lr": float(group["lr"])})

    @property
    def rate(self) -> float:
        """What a step is multiplied by on its way into the weight."""
        return -self.lr * self.scale

    @property
    def keep(self) -> float:
        """What weight decay leaves of a weight in one step."""
        return 1 - self.lr * self.weight_decay


def _real(value: Any) -> float:
    """The number, or NaN, with which every comparison fails."""
    return float(value) if isinstance(value, Real | Tensor) and isfinite(value) else nan


def _whole(value: Any) -> float:
    return float(value) if isinstance(value, Integral) else nan


def _are_betas(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(0 <= _real(beta) < 1 for beta in value)


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr": ("a number of at least 0, such as 1e-3", lambda value: _real(value) >= 0),
    "betas": ("two numbers of at least 0 and below 1, such as (0.9, 0.999)", _are_betas),
    "eps": ("a number of at least 0, such as 1e-8", lambda value: _real(value) >= 0),
    "weight_decay": ("a number of at least 0; 0 switches it off", lambda value: _real(value) >= 0),
    "rank": (
        "a whole number of at least 1, or None for plain AdamW",
        lambda value: value is None or _whole(value) >= 1,
    ),
    "scale": ("a number above 0; 1 leaves the step as it is", lambda value: _real(value) > 0),
    "complement": ("a number of at least 0; 0 switches it off", lambda value: _real(value) >= 0),
    "basis_pool": (
        "a whole number of at least 1; 1 takes the leading directions",
        lambda value: _whole(value) >= 1,
    ),
    "update_proj_gap": ("a whole number of at least 1, such as 200", lambda value: _whole(value) >= 1),
    "prior_steps": (
        "a number of at least 0, or None to trust the state for ever",
        lambda value: value is None or _real(value) >= 0,
    ),
    "update_clip": (
        "a number above 0, or None to switch it off",
        lambda value: value is None or _real(value) > 0,
    ),
    "seed": ("a whole number", lambda value: isinstance(value, Integral)),
}


def check_values(values: Mapping[str, Any]) -> None:
    """Checks the arguments of GaLoreAdamW, or what a parameter group holds of them.

    Raises:
        ValueError: a value is out of its range.
    """
    for argument, value in values.items():
        rule, holds = _RULES.get(argument, ("", None))
        if holds is not None and not holds(value):
            raise ValueError(f"{argument} must be {rule}, not {value!r}")
