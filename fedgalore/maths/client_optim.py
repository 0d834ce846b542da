"""GaLoreAdamW of a federation's client: it keeps what an update reports of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fedgalore.maths.optim import GaLoreAdamW
from fedgalore.maths.second_moment import SecondMomentSketch
from fedgalore.maths.subspace import SubspaceState
from fedgalore.maths.subspace_config import SubspaceConfig


@dataclass(frozen=True)
class Factor:
    """One stretch of training inside one basis: the weight moved by `basis @ factor`, `(d, r)` and `(r, k)`."""

    basis: Tensor
    factor: Tensor


@dataclass(frozen=True)
class SharedBasis:
    """One target's basis that all clients train in, and what the next one is computed from.

    `basis (d, r)`, None in the round that only sketches; `test_matrix (k, w)`, equal for all clients.
    """

    basis: Tensor | None
    test_matrix: Tensor


class ClientState(SubspaceState):
    """A target's state of one round: how it moved beside how it goes on."""

    factor: Tensor  # (r, k), in the last basis
    finished: list[tuple[Tensor, Tensor]]  # earlier bases with their factors
    decay: float  # what weight decay has left of the weight
    range_sketch: Tensor  # (d, w), summed over the gradients; w = 0 without a shared basis
    gradients: int


class ClientGaLoreAdamW(GaLoreAdamW):
    """One round of `targets`, from name to weight matrix and rank.

    Unlike a user's optimizer it decays a target that saw no gradient: the server takes the same decay off every weight.
    Gradients are spent by a step.

    Args:
        config: hyperparameters of all targets.
        carried: by name, the aligned second moment to start from; names may be missing.
        seed: of the bases, with each target's name mixed in.
        shared: by name, the basis that all clients train in; a target without it draws bases from its gradients.
    """

    _keeps_gradients = False

    def __init__(
        self,
        targets: Mapping[str, tuple[nn.Parameter, int]],
        config: SubspaceConfig,
        carried: Mapping[str, SecondMomentSketch] | None = None,
        seed: int = 0,
        shared: Mapping[str, SharedBasis] | None = None,
    ) -> None:
        groups = [{"params": [(name, matrix)], "rank": rank} for name, (matrix, rank) in targets.items()]
        self._targets = {name: matrix for name, (matrix, _) in targets.items()}
        self._shared: dict[Tensor, SharedBasis] = {self._targets[name]: basis for name, basis in (shared or {}).items()}
        self._moved: set[Tensor] = set()  # in the backward pass at hand
        super().__init__(groups, **vars(config), seed=seed)
        for name, sketch in (carried or {}).items():
            self.start_from(self._targets[name], sketch)

    @property
    def decay(self) -> float:
        """What weight decay has left of each target."""
        return self._client_state(next(iter(self._targets.values())))["decay"]

    def factors(self, name: str) -> list[Factor]:
        """What moved the target: `W_K = decay W_0 + sum_j basis_j @ factor_j`, oriented.

        Raises:
            ValueError: with complement the change has no such factors.
        """
        if self.defaults["complement"]:
            raise ValueError("factors: a change with complement has full rank; take it from the weights")
        state = self._client_state(self._targets[name])
        return [*(Factor(*pair) for pair in state["finished"]), Factor(state["basis"], state["factor"])]

    def sketch(self, name: str) -> SecondMomentSketch:
        """The target's bias-corrected second moment in its last basis."""
        return self.sketch_of(self._targets[name])

    def range_sketch(self, name: str) -> Tensor:
        """`Y = G Omega (d, w)` of the mean gradient of the steps taken: what the next shared basis comes from."""
        state = self._client_state(self._targets[name])
        return state["range_sketch"] / max(state["gradients"], 1)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _step_and_free(self, index: int, parameter: Tensor) -> None:
        super()._step_and_free(index, parameter)
        self._moved.add(parameter)

    def _pass_over(self, parameter: Tensor, config: SubspaceConfig) -> None:
        if parameter in self._moved:
            self._moved.remove(parameter)
        elif config.keep != 1:
            self._shift(parameter, None, config)

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> None:
        shared, state = self._shared.get(parameter), self._client_state(parameter)
        if shared is not None:
            state["range_sketch"] += gradient @ shared.test_matrix
            state["gradients"] += 1
            if shared.basis is None:
                self._shift(parameter, None, config)
                return
        super()._step_matrix(parameter, gradient, config)

    def _next_basis(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> Tensor:
        shared = self._shared.get(parameter)
        if shared is not None and shared.basis is not None:
            return shared.basis
        return super()._next_basis(parameter, gradient, config)

    def _change_basis(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> None:
        state = self._client_state(parameter)
        if state["step"] and not config.complement:
            state["finished"].append((state["basis"], state["factor"]))
            state["factor"] = torch.zeros_like(state["factor"])
        super()._change_basis(parameter, gradient, config)

    def _move(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> Tensor:
        direction = super()._move(parameter, gradient, config)
        if not config.complement:
            self._client_state(parameter)["factor"].add_(direction, alpha=config.rate)
        return direction

    def _shift(self, parameter: Tensor, step: Tensor | None, config: SubspaceConfig) -> None:
        super()._shift(parameter, step, config)
        state = self._client_state(parameter)
        state["decay"] *= config.keep
        if config.keep != 1:
            for factor in (state["factor"], *(factor for _, factor in state["finished"])):
                factor.mul_(config.keep)

    # --- state ---------------------------------------------------------------------------------------------------

    def _client_state(self, parameter: Tensor) -> ClientState:
        return cast(ClientState, self._state_of(parameter))

    def _new_state(self, parameter: Tensor, rank: int, seed: int) -> ClientState:
        state, shared = super()._new_state(parameter, rank, seed), self._shared.get(parameter)
        d, width = len(state["basis"]), shared.test_matrix.shape[1] if shared is not None else 0
        return {
            **state,
            "factor": torch.zeros_like(state["exp_avg"]),
            "finished": [],
            "decay": 1.0,
            "range_sketch": torch.zeros(d, width, dtype=torch.float32, device=parameter.device),
            "gradients": 0,
        }
