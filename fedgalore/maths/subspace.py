"""AdamW for one matrix inside a gradient subspace: the state of it, and the formulas that move it.

Shapes: gradient `G (d, k)` with `d <= k`, basis `P (d, r)`, projected gradient `R = P^T G (r, k)`, normalised step
`N (r, k)`. Everything is float32 and lies on the matrix's device. Papers: GaLore, https://arxiv.org/abs/2403.03507, for
the subspace; Fira, https://arxiv.org/abs/2410.01623, for what lies outside it; Adafactor,
https://arxiv.org/abs/1804.04235, for the clipped step; LDAdam, https://arxiv.org/abs/2410.16103, for a second moment
that changes its basis.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from fedgalore.maths.projector import orient, project, project_back, sampled_basis
from fedgalore.maths.second_moment import SecondMomentSketch, carry, residual_of, transfer
from fedgalore.maths.subspace_config import SubspaceConfig


class SubspaceState(TypedDict):
    """A matrix's entry in `torch.optim.Optimizer.state`: tensors and numbers only, so that it can be saved."""

    step: int
    basis: Tensor  # (d, r); the identity's columns until the first gradient
    exp_avg: Tensor  # (r, k)
    exp_avg_sq: Tensor  # (r, k), not bias-corrected
    residual_sum: Tensor  # (1, k), `rho` summed over the steps
    prior: float  # steps that the carried second moment counts for; inf: trusted for ever
    generator: Tensor  # uint8, the state of what draws the bases
    seed: int  # of the rounding of a bfloat16 weight, with `moves` mixed in
    moves: int  # of the weight, steps and decays alone
    carried: NotRequired[dict[str, Tensor]]  # until the first step: the fields of the sketch to start from


def lies_in_subspace(parameter: Tensor, rank: int | None) -> bool:
    """Whether a parameter of a group with `rank` keeps its moments in a subspace."""
    return rank is not None and parameter.dim() == 2 and parameter.numel() > 0


def new_state(matrix: Tensor, rank: int, seed: int) -> SubspaceState:
    d, k = orient(matrix).shape
    rank = min(rank, d)
    place: dict[str, Any] = {"dtype": torch.float32, "device": matrix.device}
    return {
        "step": 0,
        "basis": torch.eye(d, rank, **place),
        "exp_avg": torch.zeros(rank, k, **place),
        "exp_avg_sq": torch.zeros(rank, k, **place),
        "residual_sum": torch.zeros(1, k, **place),
        "prior": 0.0,
        "generator": torch.Generator("cpu").manual_seed(seed).get_state(),
        "seed": seed,
        "moves": 0,
    }


def draw_basis(state: SubspaceState, gradient: Tensor, pool: int) -> Tensor:
    """The next basis `(d, r)`, drawn from `gradient (d, k)`; moves the generator's state on."""
    generator = torch.Generator("cpu").set_state(state["generator"].to("cpu", torch.uint8))
    basis = sampled_basis(gradient, state["basis"].shape[1], pool, generator)
    state["generator"] = generator.get_state()
    return basis


def change_basis(state: SubspaceState, basis: Tensor, gradient: Tensor, config: SubspaceConfig) -> None:
    """Moves the moments into `basis (d, r)` by the transfer formula; before the first step, the carried ones."""
    if state["step"] == 0:
        _start(state, basis, gradient, config)
    else:
        correction = second_correction(state, config)
        overlap = project(basis, state["basis"])
        moved = transfer(state["exp_avg_sq"] / correction, residual(state), overlap)
        state["exp_avg_sq"] = correction * moved
        state["exp_avg"] = overlap @ state["exp_avg"]
    state["basis"] = basis


def _start(state: SubspaceState, basis: Tensor, gradient: Tensor, config: SubspaceConfig) -> None:
    if "carried" not in state:
        return
    state["prior"] = inf if config.prior_steps is None else config.prior_steps
    # A carried state may damp what is loud elsewhere and quiet here, but never blow up what is loud here: one element
    # far too small would fill the whole clipped step.
    carried = carry(SecondMomentSketch(**state.pop("carried")), basis)
    start = torch.maximum(carried, project(basis, gradient).square())
    # `prior` steps' worth of it: bias correction then gives it back exactly
    state["exp_avg_sq"] = second_correction(state, config) * start


def step_of(state: SubspaceState, gradient: Tensor, config: SubspaceConfig) -> tuple[Tensor, Tensor]:
    """Takes `gradient (d, k)` into the state; returns `N (r, k)` and the whole step `(d, k)`, before the rate.

    The step is inside the subspace by AdamW; with complement, outside of it by the gradient, scaled alike. With
    complement the step takes the gradient's place in memory, which is half of the time of such a step.
    """
    projected = project(state["basis"], gradient)
    outside = residual_of(gradient, projected)
    state["residual_sum"] += outside
    direction = _direction(state, projected, config)
    if not config.complement:
        return direction, project_back(state["basis"], direction)
    scaling = config.complement * _scaling(direction, projected, outside, config.eps)
    # P N + phi (G - P R) = P (N - phi R) + phi G
    return direction, gradient.mul_(scaling).addmm_(state["basis"], direction - scaling * projected)


def _direction(state: SubspaceState, projected: Tensor, config: SubspaceConfig) -> Tensor:
    """`N (r, k)`: Adam's normalised step, clipped to a root mean square of `update_clip` as Adafactor does."""
    beta1, beta2 = config.betas
    state["step"] += 1
    state["exp_avg"].lerp_(projected, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(projected, projected, value=1 - beta2)
    first = state["exp_avg"] / (1 - beta1 ** state["step"])
    second = state["exp_avg_sq"] / second_correction(state, config)
    direction = first / (second.sqrt() + config.eps)
    if config.update_clip is not None:
        rms = float(direction.norm()) / sqrt(direction.numel())
        direction = direction / max(1.0, rms / config.update_clip)
    return direction


def _scaling(direction: Tensor, projected: Tensor, outside: Tensor, eps: float) -> Tensor:
    """`phi (k,)` of Fira: how AdamW scaled a column's gradient inside the subspace, `|N_j| / |R_j|`.

    A column that is weaker inside than outside (`outside` is its `rho`) is scaled as if it were equally strong, so that
    what lies outside stays below `|N_j| sqrt((d - r) / r)`: a column that hardly projects must not explode.
    """
    inside = torch.maximum(projected.norm(dim=0), (projected.shape[0] * outside[0]).sqrt())
    return direction.norm(dim=0) / inside.clamp_min(eps)


def second_correction(state: SubspaceState, config: SubspaceConfig) -> float:
    """What the second moment is divided by; a state that is trusted for ever needs no bias correction."""
    return 1.0 if state["prior"] == inf else 1 - config.betas[1] ** (state["prior"] + state["step"])


def residual(state: SubspaceState) -> Tensor:
    """`rho (1, k)`, averaged over the steps taken; before the first, what was carried in."""
    if "carried" in state:
        return state["carried"]["residual"]
    return state["residual_sum"] / max(state["step"], 1)


def bias_corrected(state: SubspaceState, config: SubspaceConfig) -> SecondMomentSketch:
    """The second moment in the last basis, as it would be without its start at 0."""
    correction = second_correction(state, config)
    second = state["exp_avg_sq"] / correction if correction > 0 else state["exp_avg_sq"]
    return SecondMomentSketch(state["basis"], second, residual(state))


def placed(state: Any, device: torch.device) -> Any:
    """A copied state with its tensors on `device`; they keep their dtypes."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: placed(value, device) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(placed(value, device) for value in state)
    return state


def check_fits(name: str, parameter: Tensor, rank: int | None, entry: dict[str, Any]) -> None:
    """Raises ValueError where an `entry` of a saved state is not that of a `parameter` at `rank`."""
    whole = orient(parameter) if lies_in_subspace(parameter, rank) else parameter
    shape = (len(entry["basis"]), entry["exp_avg"].shape[1]) if "basis" in entry else entry["exp_avg"].shape
    if shape != whole.shape:
        raise ValueError(
            f"state_dict: parameter {name} has the shape {tuple(parameter.shape)} and its state does not; "
            "load the state of the same model"
        )
