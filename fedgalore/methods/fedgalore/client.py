"""The client half of FedGaLore: training in gradient subspaces. ALGORITHM, "Client, one round"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from fedgalore.deltas import decoded
from fedgalore.maths.client_optim import ClientGaLoreAdamW, SharedBasis
from fedgalore.maths.second_moment import SecondMomentSketch
from fedgalore.maths.seeding import derive_seed
from fedgalore.maths.subspace_config import SubspaceConfig
from fedgalore.methods.fedgalore.layout import KEPT_PARTS, method_of, sketch_width
from fedgalore.methods.fedgalore.travel import PACKING, basis_in, told
from fedgalore.methods.halves import ClientHalf, LocalTraining, Moved, Packed
from fedgalore.rounds import LocalRound
from fedgalore.spec.layout import state_tensors
from fedgalore.spec.plan import Target

ROOTS = ("rms", "residual")  # of a state that travels


class FedGaLoreClient(ClientHalf):
    @contextmanager
    def train(self, round: LocalRound) -> Iterator[LocalTraining]:
        task, method = round.task, method_of(round.spec)
        state = received_state(round)
        carried = kept_state(round) if method.state_sync == "local" else aligned_state(round, state)
        weights, ranks = task.targets(), {t.name: method.rank_at(t, round.client) for t in task.plan.targets}
        optimizer = ClientGaLoreAdamW(
            {name: (weights[name][0], rank) for name, rank in ranks.items()},
            subspace_config(round),
            carried,
            derive_seed(round.spec.seed, "subspaces", round.client, round.number),
            shared_bases(round, state) if method.basis == "shared" else None,
        )
        yield SubspaceTraining(round, optimizer)


class SubspaceTraining(LocalTraining):
    """What the optimizer did in a round, and how it is sent."""

    def __init__(self, round: LocalRound, optimizer: ClientGaLoreAdamW) -> None:
        self._spec, self._method = round.spec, method_of(round.spec)
        self._round, self._optimizer = round, optimizer
        self._packing = PACKING[self._method.form](round, optimizer)

    @property
    def decay(self) -> float:
        return self._optimizer.decay

    def last_pass(self) -> AbstractContextManager[None]:
        return self._optimizer.step_in_backward()

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def moved(self, target: Target) -> Sequence[Moved]:
        weight, _ = self._round.task.targets()[target.name]
        return [Moved.of(self._round, target, weight)]

    def packed(self, target: Target) -> Packed:
        """What tells the change, and what the job wants to know of the optimizer's state."""
        packed = self._packing.change(target)
        sent, kept = dict(packed.told), dict(packed.kept)
        if self._method.sends_state and packed.state is not None:
            sent |= told(self._spec, target, packed.state.second_moment, packed.state.residual)
        if self._method.state_sync == "local":
            sketch = self._optimizer.sketch(target.name)
            kept |= dict(zip(KEPT_PARTS, (sketch.basis, sketch.second_moment, sketch.residual), strict=True))
        return Packed(sent, kept)


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


def received_state(round: LocalRound) -> dict[str, Tensor]:
    """What all clients start from beside the weights, as numbers where each weight lies."""
    tensors, weights = state_tensors(round.spec, round.task.plan, round.number - 1), round.task.targets()
    read = decoded(round.start.state.__getitem__, tensors)
    return {name: read(name).to(weights[name.rpartition("/")[0]][0].device) for name in round.start.state}


def aligned_state(round: LocalRound, state: Mapping[str, Tensor]) -> dict[str, SecondMomentSketch]:
    """The second moments that the clients share, by target name."""
    sketches = {}
    for name in (target.name for target in round.task.plan.targets):
        if f"{name}/rms" in state:
            basis = state[f"{name}/reference"]
            if method_of(round.spec).basis == "local":
                basis = basis_in(basis)
            sketches[name] = SecondMomentSketch(basis, *(state[f"{name}/{part}"].square() for part in ROOTS))
    return sketches


def kept_state(round: LocalRound) -> dict[str, SecondMomentSketch]:
    """The second moments that this client kept itself, by target name."""
    kept = round.start.kept
    return {
        name: SecondMomentSketch(*(kept[f"{name}/{part}"].to(weight.device) for part in KEPT_PARTS))
        for name, (weight, _) in round.task.targets().items()
        if f"{name}/second_moment" in kept
    }


def shared_bases(round: LocalRound, state: Mapping[str, Tensor]) -> dict[str, SharedBasis]:
    """The round's bases, from the state, and the test matrices of the next ones, from the job's seed."""
    shared, weights = {}, round.task.targets()
    for target in round.task.plan.targets:
        seed = derive_seed(round.spec.seed, "range sketch", round.number, target.name)
        test_matrix = torch.randn(target.k, sketch_width(target), generator=torch.Generator().manual_seed(seed))
        test_matrix = test_matrix.to(weights[target.name][0].device)
        shared[target.name] = SharedBasis(state.get(f"{target.name}/reference"), test_matrix)
    return shared
