"""A step of torch's AdamW, of one parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from fedgalore.maths.subspace_config import SubspaceConfig


def step_plainly(parameter: Tensor, gradient: Tensor, state: dict[str, Any], config: SubspaceConfig) -> None:
    """Moves `parameter`; `state` is filled at the first step, with torch's names and dtypes."""
    if not state:
        state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    adamw(
        [parameter],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        amsgrad=False,
        beta1=config.betas[0],
        beta2=config.betas[1],
        lr=config.lr,
        weight_decay=config.weight_decay,
        eps=config.eps,
        maximize=False,
    )
