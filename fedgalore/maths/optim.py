"""GaLoreAdamW: AdamW whose state lives in gradient subspaces, as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import count
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from fedgalore.maths.plain_adamw import step_plainly
from fedgalore.maths.projector import orient
from fedgalore.maths.rounding import move_
from fedgalore.maths.second_moment import SecondMomentSketch
from fedgalore.maths.seeding import derive_seed
from fedgalore.maths.subspace import (
    SubspaceState,
    bias_corrected,
    change_basis,
    check_fits,
    draw_basis,
    lies_in_subspace,
    new_state,
    placed,
    step_of,
)
from fedgalore.maths.subspace_config import SubspaceConfig, check_values


class GaLoreAdamW(Optimizer):
    """AdamW that keeps a matrix's moments in a rank-`r` subspace of its gradients.

    It takes the place of `torch.optim.AdamW`. A matrix with smaller side `d` and larger side `k` keeps a basis `(d, r)`
    and two moments `(r, k)` in float32, where AdamW keeps two of `(d, k)`. Whatever is no matrix (biases, norms), and
    everything in a group with `rank=None` (put embeddings there), takes the steps of torch's AdamW, with its state. At
    a rank of `d` or more the basis is the identity, and a matrix takes AdamW's steps too, but for `update_clip`.

    Args:
        params: as torch's optimizers take them: parameters, `(name, parameter)` pairs, or groups with their own values
            of the arguments below.
        lr: learning rate; it is read at each step, so that schedulers work.
        betas, eps, weight_decay: as those of `torch.optim.AdamW`.
        rank: columns `r` of each basis; None for plain AdamW.
        scale: multiplies the steps of matrices in subspaces; GaLore's alpha.
        complement: how strongly the gradient outside of the subspace moves the weight, scaled column by column as the
            part inside; 0 for GaLore, 1 for Fira.
        basis_pool: a basis is drawn from this many times `rank` leading singular vectors; 1 takes the leading ones, as
            GaLore does.
        update_proj_gap: steps of a matrix between two bases; its moments move into the new one.
        prior_steps: steps that a second moment given to `start_from` counts for; None trusts it for ever.
        update_clip: root mean square that a step inside the subspace is clipped to; None switches it off.
        seed: of the bases, with each parameter's name mixed in, or its place where it came without a name.

    Memory: beside the state, a step holds one matrix's gradient in float32; without complement, or in `step()`, another
    matrix of its size. With the usual `loss.backward(); optimizer.step()` all gradients are alive at once.
    `step_in_backward` frees each of them before the next is complete, and moves the weights by the same bits.

    A matrix in bfloat16 takes each step in float32 and is rounded stochastically, by the seed; its state is float32.

    A parameter without a gradient is left alone, weight decay included. State lies where its parameter lies.

    Papers: GaLore, https://arxiv.org/abs/2403.03507; Fira, https://arxiv.org/abs/2410.01623 (`complement`); Adafactor,
    https://arxiv.org/abs/1804.04235 (`update_clip`); LDAdam, https://arxiv.org/abs/2410.16103 (moments in a new basis);
    SARA, https://arxiv.org/abs/2502.05790 (`basis_pool`).

    Raises:
        ValueError: an argument or a group's value is out of its range, or a parameter holds no floating-point numbers.
    """

    _keeps_gradients = True  # in `step`, as torch's optimizers do

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        rank: int | None = 8,
        scale: float = 1.0,
        complement: float = 0.0,
        basis_pool: int = 6,
        update_proj_gap: int = 200,
        prior_steps: float | None = 2.0,
        update_clip: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "scale": scale,
            "complement": complement,
            "basis_pool": basis_pool,
            "update_proj_gap": update_proj_gap,
            "prior_steps": prior_steps,
            "update_clip": update_clip,
            "seed": seed,
        }
        check_values(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, with the group's values checked.

        Raises:
            ValueError: as the class.
        """
        check_values(param_group)
        super().add_param_group(param_group)
        wrong = [parameter.dtype for parameter in param_group["params"] if not parameter.is_floating_point()]
        if wrong:
            self.param_groups.pop()
            raise ValueError(f"params must hold floating-point numbers, not {wrong[0]}; leave those parameters out")

    # --- steps -------------------------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves each parameter that has a gradient; returns the loss where a `closure` computes it anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            config = SubspaceConfig.of(group)
            for parameter in group["params"]:
                if parameter.grad is None:
                    self._pass_over(parameter, config)
                else:
                    self._step_parameter(parameter, parameter.grad, group["rank"], config, self._keeps_gradients)
        return loss

    @contextmanager
    def step_in_backward(self) -> Iterator[None]:
        """Inside, each parameter moves as soon as `backward()` has completed its gradient, which is then freed.

        The training loop stays as it is: `step()` moves what still has a gradient. Each `backward()` is a step: to
        accumulate gradients, enter it for the last pass alone. They cannot be clipped over all parameters, or unscaled.
        Groups added inside move in `step()`.
        """
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._step_and_free, index))
            for index, group in enumerate(self.param_groups)
            for parameter in group["params"]
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _step_and_free(self, index: int, parameter: Tensor) -> None:
        group = self.param_groups[index]  # by its place: `load_state_dict` replaces the groups
        if parameter.grad is not None:
            self._step_parameter(parameter, parameter.grad, group["rank"], SubspaceConfig.of(group), keep=False)
        parameter.grad = None

    def _step_parameter(
        self, parameter: Tensor, gradient: Tensor, rank: int | None, config: SubspaceConfig, keep: bool
    ) -> None:
        """Moves a parameter along a gradient, which is left as it is where `keep` says so."""
        if gradient.is_sparse:
            name = self._place_of(parameter)[0]
            raise ValueError(f"the gradient of parameter {name} is sparse; build its embedding with sparse=False")
        if lies_in_subspace(parameter, rank):
            own = gradient.to(torch.float32, copy=keep and bool(config.complement))
            self._step_matrix(parameter, orient(own), config)
        else:
            step_plainly(parameter, gradient, self.state[parameter], config)

    def _pass_over(self, parameter: Tensor, config: SubspaceConfig) -> None:
        """What `step()` does with a parameter that has no gradient: nothing."""

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> None:
        """One step along the oriented `gradient (d, k)`, in a new basis where it is time."""
        if self._state_of(parameter)["step"] % config.update_proj_gap == 0:
            self._change_basis(parameter, gradient, config)
        self._move(parameter, gradient, config)

    def _change_basis(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> None:
        basis = self._next_basis(parameter, gradient, config)
        change_basis(self._state_of(parameter), basis, gradient, config)

    def _next_basis(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> Tensor:
        return draw_basis(self._state_of(parameter), gradient, config.basis_pool)

    def _move(self, parameter: Tensor, gradient: Tensor, config: SubspaceConfig) -> Tensor:
        """Moves the weight; returns the step inside the subspace, `N (r, k)`."""
        direction, whole = step_of(self._state_of(parameter), gradient, config)
        self._shift(parameter, whole, config)
        return direction

    def _shift(self, parameter: Tensor, step: Tensor | None, config: SubspaceConfig) -> None:
        """What weight decay leaves of the weight, and the step `(d, k)` times its rate."""
        state = self._state_of(parameter)
        state["moves"] += 1
        seed = derive_seed(state["seed"], "rounding", state["moves"])
        move_(orient(parameter), step, config.rate, config.keep, seed)

    # --- state -------------------------------------------------------------------------------------------------------

    def start_from(self, parameter: Tensor, sketch: SecondMomentSketch) -> None:
        """Lets a matrix start from another training's second moment; `prior_steps` says how long that counts.

        Raises:
            ValueError: the parameter has no subspace or has taken steps, or the sketch is of another shape.
        """
        state, name = self._state_of(parameter), self._place_of(parameter)[0]
        if state["step"]:
            raise ValueError(f"parameter {name} has taken {state['step']} steps; call start_from before the first")
        wanted, given = orient(parameter).shape, (len(sketch.basis), sketch.second_moment.shape[1])
        if given != wanted:
            raise ValueError(f"parameter {name} needs a sketch of the shape {tuple(wanted)}, not {given}")
        state["carried"] = {part: tensor.to(parameter.device) for part, tensor in vars(sketch).items()}

    def sketch_of(self, parameter: Tensor) -> SecondMomentSketch:
        """A matrix's bias-corrected second moment in its last basis.

        Raises:
            ValueError: the parameter has no subspace.
        """
        return bias_corrected(self._state_of(parameter), SubspaceConfig.of(self._place_of(parameter)[1]))

    def _state_of(self, parameter: Tensor) -> SubspaceState:
        """A matrix's entry in `state`, which changes in place.

        Raises:
            ValueError: the parameter has no subspace.
        """
        if "basis" not in self.state.get(parameter, {}):
            name, group = self._place_of(parameter)
            if not lies_in_subspace(parameter, group["rank"]):
                raise ValueError(f"parameter {name} has no subspace; give a matrix of a group with a rank")
            self.state[parameter] = self._new_state(parameter, group["rank"], derive_seed(group["seed"], "basis", name))
        return cast(SubspaceState, self.state[parameter])

    def _new_state(self, parameter: Tensor, rank: int, seed: int) -> SubspaceState:
        return new_state(parameter, rank, seed)

    def _named(self) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
        """Each parameter with its name, or its place where it came without one, and with its group."""
        places = count()
        for group in self.param_groups:
            names = group.get("param_names") or map(str, places)
            for parameter, name in zip(group["params"], names, strict=False):
                yield name, parameter, group

    def _place_of(self, parameter: Tensor) -> tuple[str, dict[str, Any]]:
        for name, known, group in self._named():
            if known is parameter:
                return name, group
        raise ValueError("parameter is not in this optimizer; add it with add_param_group")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but it copies, and a matrix's state stays float32 beside a weight of another dtype.

        Raises:
            ValueError: the state is another optimizer's, or that of other parameters.
        """
        matrices: dict[Tensor, dict[str, Any]] = {}

        def take_matrices(_optimizer: Optimizer, document: dict[str, Any]) -> None:
            groups = document["param_groups"]
            if any("rank" not in group for group in groups):
                raise ValueError("state_dict is another optimizer's; load the state of a GaLoreAdamW")
            saved = ((document["state"].get(index), group["rank"]) for group in groups for index in group["params"])
            for (entry, rank), (name, parameter, _) in zip(saved, self._named(), strict=False):
                if entry:
                    check_fits(name, parameter, rank, entry)
                if entry and "basis" in entry:
                    matrices[parameter] = placed(entry, parameter.device)

        last = self.register_load_state_dict_pre_hook(take_matrices)  # after the user's hooks
        try:
            super().load_state_dict(deepcopy(state_dict))
        finally:
            last.remove()
        self.state.update(matrices)
