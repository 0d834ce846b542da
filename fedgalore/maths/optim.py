"""GaLoreAdamW: AdamW whose state lives in gradient subspaces.

Each target matrix has a hook that takes its step the moment its gradient is complete and frees the gradient, so that at
most one full-size gradient is alive. Everything else (moments, factors) has `r` rows. Formulas: ALGORITHM, "Client, one
round"; GaLore https://arxiv.org/abs/2403.03507; what of the gradient lies outside the subspace: Fira,
https://arxiv.org/abs/2410.01623.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from types import TracebackType

import torch
from torch import Tensor, nn

from fedgalore.maths.projector import orient, project, project_back, sampled_basis
from fedgalore.maths.second_moment import SecondMomentSketch, carry, residual_of, transfer
from fedgalore.maths.seeding import derive_seed


@dataclass(frozen=True)
class SubspaceConfig:
    """Hyperparameters of the target matrices; the defaults are those of `JobSpec`."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    scale: float = 1.0
    complement: float = 0.0
    basis_pool: int = 6
    update_proj_gap: int = 200
    prior_steps: float | None = 2.0
    update_clip: float | None = 1.0


@dataclass(frozen=True)
class Factor:
    """One stretch of training inside one basis: the weight moved by `basis @ factor`, `(d, r)` and `(r, k)`."""

    basis: Tensor
    factor: Tensor


@dataclass(frozen=True)
class SharedBasis:
    """One target's basis that all clients train in, and what the next one is found from.

    `basis (d, r)`, None in the round that only sketches; `test_matrix (k, w)`, equal for all clients.
    """

    basis: Tensor | None
    test_matrix: Tensor


class _Subspace:
    """Optimizer state of one target matrix."""

    def __init__(
        self,
        parameter: nn.Parameter,
        rank: int,
        carried: SecondMomentSketch | None,
        shared: SharedBasis | None,
        seed: int,
    ) -> None:
        self.parameter = parameter
        self.rank = rank
        self.carried = carried
        self.shared = shared
        self.generator = torch.Generator().manual_seed(seed)
        d, k = orient(parameter).shape
        device = parameter.device
        self.basis = torch.eye(d, rank, device=device)  # stands in until the first gradient, and where none ever comes
        self.first = torch.zeros(rank, k, device=device)
        self.second = torch.zeros(rank, k, device=device)  # not bias-corrected
        self.factor = torch.zeros(rank, k, device=device)
        self.finished: list[Factor] = []
        self.prior = 0.0  # steps that the carried second moment counts for
        self.residual_sum = torch.zeros(1, k, device=device)
        self.steps = 0
        self.moved = False  # in the step at hand
        self.gradients = 0
        self.sketch = torch.zeros(d, shared.test_matrix.shape[1], device=device) if shared else None

    def next_basis(self, gradient: Tensor, pool: int) -> Tensor:
        if self.shared is not None and self.shared.basis is not None:
            return self.shared.basis
        return sampled_basis(gradient, self.rank, pool, self.generator)

    def second_correction(self, beta2: float, steps: int) -> float:
        return 1.0 if self.prior == inf else 1 - beta2 ** (self.prior + steps)

    def residual(self) -> Tensor:
        """`rho (1, k)`, averaged over the steps taken; before the first, what was carried in."""
        if self.steps == 0:
            return self.carried.residual if self.carried is not None else self.residual_sum
        return self.residual_sum / self.steps


def _scaling(direction: Tensor, projected: Tensor, outside: Tensor, eps: float) -> Tensor:
    """`phi (k,)` of Fira: what AdamW made of a column's gradient inside the subspace, `|N_j| / |R_j|`.

    A column that is weaker inside than outside (`outside` is its `rho`) is scaled as if it were equally strong, so that
    what lies outside stays below `|N_j| sqrt((d - r) / r)`: a column that hardly projects must not explode.
    """
    inside = torch.maximum(projected.norm(dim=0), (projected.shape[0] * outside[0]).sqrt())
    return direction.norm(dim=0) / inside.clamp_min(eps)


class GaLoreAdamW:
    """AdamW over `targets` inside rank-`r` subspaces.

    Args:
        targets: name -> (weight matrix, rank).
        carried: name -> aligned second moment to start from; names may be missing.
        shared: name -> basis that all clients train in; names that are missing find bases of their own.
        seed: of the range finders, with each target's name mixed in.

    Use as a context manager: the hooks are removed at its end. Each `backward()` moves the targets; call `step()` after
    it.
    """

    def __init__(
        self,
        targets: Mapping[str, tuple[nn.Parameter, int]],
        config: SubspaceConfig,
        carried: Mapping[str, SecondMomentSketch] | None = None,
        seed: int = 0,
        shared: Mapping[str, SharedBasis] | None = None,
    ) -> None:
        self.config = config
        self.decay = 1.0
        carried, shared = carried or {}, shared or {}
        self._subspaces = {
            name: _Subspace(parameter, rank, carried.get(name), shared.get(name), derive_seed(seed, "basis", name))
            for name, (parameter, rank) in targets.items()
        }
        self._handles = [
            space.parameter.register_post_accumulate_grad_hook(self._hook(space)) for space in self._subspaces.values()
        ]

    def __enter__(self) -> GaLoreAdamW:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, space: _Subspace):  # type: ignore[no-untyped-def]  # torch types hooks as Callable[[Tensor], None]
        @torch.no_grad()
        def move_and_free(parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient = orient(parameter.grad.float())
            parameter.grad = None
            if space.shared is not None:
                assert space.sketch is not None
                space.sketch += gradient @ space.shared.test_matrix
                space.gradients += 1
                if space.shared.basis is None:
                    return
            if space.steps % self.config.update_proj_gap == 0:
                self._change_basis(space, space.next_basis(gradient, self.config.basis_pool), gradient)
            self._move(space, gradient)

        return move_and_free

    def _change_basis(self, space: _Subspace, basis: Tensor, gradient: Tensor) -> None:
        """Moves the state by the transfer formula; the factor of the old basis is finished."""
        beta2 = self.config.betas[1]
        if space.steps == 0:
            if space.carried is not None:
                space.prior = inf if self.config.prior_steps is None else self.config.prior_steps
                # A carried state may damp what is loud elsewhere and quiet here, but never blow up what is loud here:
                # one element far too small would fill the whole clipped step.
                start = torch.maximum(carry(space.carried, basis), project(basis, gradient).square())
                # n_0 steps' worth of it: bias correction then gives it back exactly
                space.second = space.second_correction(beta2, 0) * start
        else:
            correction = space.second_correction(beta2, space.steps)
            overlap = project(basis, space.basis)
            space.second = correction * transfer(space.second / correction, space.residual(), overlap)
            space.first = overlap @ space.first
            if not self.config.complement:
                space.finished.append(Factor(space.basis, space.factor))
                space.factor = torch.zeros_like(space.factor)
        space.basis = basis

    def _move(self, space: _Subspace, gradient: Tensor) -> None:
        """The step of one target: inside its subspace by AdamW, outside by the gradient, scaled alike."""
        config = self.config
        projected = project(space.basis, gradient)
        outside = residual_of(gradient, projected)
        space.residual_sum += outside
        direction = self._direction(space, projected)
        rate = -config.learning_rate * config.scale
        self._decay(space)
        step = direction
        if config.complement:
            scaling = config.complement * _scaling(direction, projected, outside, config.eps)
            step = direction - scaling * projected  # P N + phi (G - P R) = P (N - phi R) + phi G
        move = project_back(space.basis, step)
        if config.complement:
            move.addcmul_(gradient, scaling)
        else:
            space.factor.add_(direction, alpha=rate)
        orient(space.parameter).add_(move, alpha=rate)
        space.moved = True

    def _decay(self, space: _Subspace) -> None:
        keep = self._keep
        if keep != 1:
            space.parameter.mul_(keep)
            space.factor.mul_(keep)
            for done in space.finished:
                done.factor.mul_(keep)

    @property
    def _keep(self) -> float:
        return 1 - self.config.learning_rate * self.config.weight_decay

    @torch.no_grad()
    def step(self) -> None:
        """Ends the step of the last `backward()`, in which each target moved; one that saw no gradient only decays."""
        self.decay *= self._keep
        for space in self._subspaces.values():
            if not space.moved:
                self._decay(space)
            space.moved = False

    def _direction(self, space: _Subspace, projected: Tensor) -> Tensor:
        """`N (r, k)`: Adam's normalised step, clipped to an RMS of `update_clip` (Adafactor, arXiv 1804.04235)."""
        beta1, beta2 = self.config.betas
        space.steps += 1
        space.first.lerp_(projected, 1 - beta1)
        space.second.mul_(beta2).addcmul_(projected, projected, value=1 - beta2)
        first = space.first / (1 - beta1**space.steps)
        # trusted for ever, the carried state needs no bias correction
        second = space.second / space.second_correction(beta2, space.steps)
        direction = first / (second.sqrt() + self.config.eps)
        if self.config.update_clip is not None:
            rms = float(direction.norm()) / sqrt(direction.numel())
            direction = direction / max(1.0, rms / self.config.update_clip)
        return direction

    def factors(self, name: str) -> list[Factor]:
        """What moved the target, without complement: `W_K = decay W_0 + sum_j basis_j @ factor_j`, oriented."""
        assert not self.config.complement
        space = self._subspaces[name]
        return [*space.finished, Factor(space.basis, space.factor)]

    def sketch(self, name: str) -> SecondMomentSketch:
        """The target's bias-corrected second moment in its last basis."""
        space = self._subspaces[name]
        correction = space.second_correction(self.config.betas[1], space.steps)
        second = space.second / correction if correction > 0 else space.second
        return SecondMomentSketch(space.basis, second, space.residual())

    def range_sketch(self, name: str) -> Tensor:
        """`Y = G Omega (d, w)` of the mean gradient of the steps taken: what the next shared basis is found from."""
        space = self._subspaces[name]
        assert space.sketch is not None
        return space.sketch / max(space.gradients, 1)
