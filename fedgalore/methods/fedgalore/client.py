"""The client half of FedGaLore: training in gradient subspaces. ALGORITHM, "Client, one round"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from fedgalore.maths.client_optim import ClientGaLoreAdamW, SharedBasis
from fedgalore.maths.second_moment import SecondMomentSketch
from fedgalore.maths.seeding import derive_seed
from fedgalore.maths.subspace_config import SubspaceConfig
from fedgalore.methods.fedgalore.layout import method_of, sketch_width
from fedgalore.methods.fedgalore.travel import PACKING
from fedgalore.methods.halves import ClientHalf, LocalTraining
from fedgalore.rounds import LocalRound
from fedgalore.spec.plan import TrainingPlan

STATE_PARTS = ("reference", "second_moment", "residual")


class FedGaLoreClient(ClientHalf):
    @contextmanager
    def train(self, round: LocalRound) -> Iterator[LocalTraining]:
        task, method = round.task, method_of(round.spec)
        state = {name: tensor.to(task.device) for name, tensor in round.start.state.items()}
        carried = round.start.kept if method.state_sync == "local" else state
        weights, ranks = task.targets(), {t.name: method.rank_at(t, round.client) for t in task.plan.targets}
        optimizer = ClientGaLoreAdamW(
            {name: (weights[name][0], rank) for name, rank in ranks.items()},
            subspace_config(round),
            carried_state(task.plan, carried, task.device),
            derive_seed(round.spec.seed, "subspaces", round.client, round.number),
            shared_bases(round, state) if method.basis == "shared" else None,
        )
        with optimizer.step_in_backward():
            yield SubspaceTraining(round, optimizer)


class SubspaceTraining:
    """What the optimizer did in a round, and how it is sent."""

    def __init__(self, round: LocalRound, optimizer: ClientGaLoreAdamW) -> None:
        self._method = method_of(round.spec)
        self._targets = round.task.plan.targets
        self._optimizer = optimizer
        self._packing = PACKING[self._method.form](round, optimizer)

    @property
    def decay(self) -> float:
        return self._optimizer.decay

    def step(self) -> None:
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """What tells the change, and what the job wants to know of the optimizer's state."""
        tensors: dict[str, Tensor] = {}
        for target in self._targets:
            sent = self._packing.change(target)
            state = self._packing.state(target) if self._method.sends_state else None
            if state is not None:
                # float16 holds the root down to gradients of 6e-8, near Adam's own eps; V it could not
                sent |= {"rms": state.second_moment.sqrt().half(), "residual": state.residual}
            tensors |= {f"{target.name}/{suffix}": tensor for suffix, tensor in sent.items()}
        return tensors

    def kept(self) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        for target in self._targets:
            parts = self._packing.kept(target)
            if self._method.state_sync == "local":
                sketch = self._optimizer.sketch(target.name)
                parts |= dict(zip(STATE_PARTS, (sketch.basis, sketch.second_moment, sketch.residual), strict=True))
            kept |= {f"{target.name}/{suffix}": tensor for suffix, tensor in parts.items()}
        return kept


def subspace_config(round: LocalRound) -> SubspaceConfig:
    """The optimizer's hyperparameters in this round."""
    method, local = method_of(round.spec), round.spec.local
    return SubspaceConfig(
        lr=round.rates.targets,
        betas=local.betas,
        eps=local.eps,
        weight_decay=local.weight_decay,
        scale=method.scale,
        complement=method.outside,
        basis_pool=method.basis_pool,
        update_proj_gap=method.update_proj_gap,
        prior_steps=method.prior_steps,
        update_clip=method.update_clip,
    )


def carried_state(
    plan: TrainingPlan, state: Mapping[str, Tensor], device: torch.device
) -> dict[str, SecondMomentSketch]:
    """The second moments to start from, by target name; those of a state file or those a client kept itself."""
    return {
        target.name: SecondMomentSketch(*(state[f"{target.name}/{part}"].to(device) for part in STATE_PARTS))
        for target in plan.targets
        if f"{target.name}/second_moment" in state
    }


def shared_bases(round: LocalRound, state: Mapping[str, Tensor]) -> dict[str, SharedBasis]:
    """The round's bases, from the state, and the test matrices of the next ones, from the job's seed."""
    shared = {}
    for target in round.task.plan.targets:
        seed = derive_seed(round.spec.seed, "range sketch", round.number, target.name)
        test_matrix = torch.randn(target.k, sketch_width(target), generator=torch.Generator().manual_seed(seed))
        shared[target.name] = SharedBasis(state.get(f"{target.name}/reference"), test_matrix.to(round.task.device))
    return shared
