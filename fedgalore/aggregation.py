"""The step to the next model version: from a version on a shelf and the clients' updates, into a sink.

`next_version` is the only place where a round's updates become a version: the aggregator calls it on files, the
simulation on dictionaries. It goes group by group of equal tensors, so its memory is a group's, not the model's. It
makes no weights: `fedgalore.replay` does, from the aggregates, for server and clients alike. Groups are computed side
by side, each on one thread, so that the number of threads changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from fedgalore import downlink
from fedgalore.alignment import Alignment, by_layer
from fedgalore.deltas import decoded, decoded_together
from fedgalore.maths.mean import Factors, Terms
from fedgalore.maths.parallel import in_order, one_thread
from fedgalore.maths.privacy import digest, epsilon, noise_key
from fedgalore.methods.halves import server_half
from fedgalore.model.task import TaskModel
from fedgalore.rounds import ClientTensors, GroupResult, ServerRound, Shelf
from fedgalore.screening import screened
from fedgalore.soundness import TooFewLeft, Unfit, Unsound, culprits, sound
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Buffer, Dense, Target, TensorSpec, TrainingPlan

GROUP_BYTES = 24 * 2**20  # of the clients' tensors that are combined at once
BYTES_AT_ONCE = 8 * GROUP_BYTES  # of the groups that are combined side by side, where a matrix allows it
NOBODY: Final = MappingProxyType[str, str]({})


class Part(NamedTuple):
    """One file of a version: every tensor that it will hold, and what stands beside them."""

    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]


class Sink(Protocol):
    """Takes a version as it is computed. Parts are "aggregate", and "state" and "residue" where kept."""

    def open(self, parts: Mapping[str, Part]) -> None:
        """Called once, before the first group."""

    def put(self, group: GroupResult) -> None:
        """What a group of tensors became; each tensor of each part comes in exactly one group."""


@dataclass
class TensorSink:
    """A `Sink` of dictionaries, by tensor name; a `Shelf` of the same version reads from it."""

    aggregate: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    residue: dict[str, Tensor] = field(default_factory=dict)

    def open(self, parts: Mapping[str, Part]) -> None:
        """Dictionaries grow by themselves."""

    def put(self, group: GroupResult) -> None:
        self.aggregate |= group.aggregate
        self.state |= group.state
        self.residue |= group.residue

    def shelf(self, weights: Mapping[str, Tensor]) -> Shelf:
        """The version, which has these weights, for reading."""
        return Shelf(weights.__getitem__, self.state.get, self.residue.get)


@dataclass(frozen=True)
class NextVersion:
    """What is to be said of a version beside its tensors.

    `dropped`: by client why its update is not in the version; `statistics`: means over the target matrices;
    `alignment`: by layer, what the clients' states share.
    """

    version: int
    decay: float
    dropped: dict[str, str]
    statistics: dict[str, float]
    alignment: dict[str, Alignment]


def first_version(task: TaskModel) -> dict[str, Tensor]:
    """The tensors of version 0, as `layout.weights_tensors` lists them; float32 on the CPU."""
    return task.weights() | first_carried(task)


def first_carried(task: TaskModel) -> dict[str, Tensor]:
    """What version 0 holds beside the model's own weights."""
    with one_thread():
        return server_half(task.spec).carried(task.spec, task.plan, task.weight)


def next_version(
    spec: JobSpec,
    plan: TrainingPlan,
    version: int,
    shelf: Shelf,
    updates: Sequence[ClientTensors],
    sink: Sink,
    *,
    device: torch.device,
    secret: str | None = None,
    left_out: Mapping[str, str] = NOBODY,
) -> NextVersion:
    """Makes version `version` of the version before and the clients' updates; the same input gives the same bits.

    Args:
        version: counts committed rounds, so it is at least 1; the clients' round number.
        shelf: the version before.
        updates: in any order; they are summed in the order of the clients' names.
        secret: hexadecimal, of the noise of a job with privacy.
        left_out: clients whose updates do not count, each with the reason, as of `without_the_unfit`.

    Raises:
        Unfit: with some of the updates, tensors would be written that are not finite, or far too large.
        TooFewLeft: fewer updates than `rounds.min_clients` are left once some were left out.
    """
    sent = [update for update in updates if update.client not in left_out]
    this, dropped = screened(server_round(spec, version, shelf, _decoded(sent, spec, plan, version), device), plan)
    clients, dropped = [client.client for client in this.clients], {**dropped, **left_out}
    if dropped and len(clients) < spec.rounds.min_clients:
        raise TooFewLeft(len(clients), spec.rounds.min_clients, dropped)
    if spec.privacy is not None and secret is not None:
        taken = [update for update in sent if update.client in clients]
        this = replace(this, noise_key=noise_key(secret, version, _digests(taken, spec, plan, version)))
    sink.open(parts_of(spec, plan, clients, version, this.decay))
    statistics, alignment = privacy_spent(spec, version), dict[str, Alignment]()
    make, cut_up = partial(aggregate_group, shelf=shelf), list(groups(plan, clients, spec))
    at_once = most_at_once(plan, clients, spec) if device.type == "cpu" else 1
    try:
        for result in in_order(lambda group: sound(group, this, make), cut_up, at_once):
            sink.put(result)
            for name, values in result.statistics.items():
                statistics.setdefault(name, []).extend(values)
            alignment |= result.alignment
            del result  # not held while the next one is made
    except Unsound as found:
        raise Unfit(culprits(found, cut_up, this, make)) from found
    means = {name: sum(values) / len(values) for name, values in statistics.items()}
    return NextVersion(version, this.decay, dropped, means, by_layer(alignment))


def _digests(updates: Sequence[ClientTensors], spec: JobSpec, plan: TrainingPlan, version: int) -> Iterator[bytes]:
    """Of all that each client sent, in the order of the clients' names."""

    def digest_of(update: ClientTensors) -> bytes:
        names = layout.update_tensors(spec, plan, update.client, version)
        return digest(update.client, ((name, update.whole(name)) for name in sorted(names)))

    return in_order(digest_of, sorted(updates, key=lambda update: update.client))


def _decoded(updates: Sequence[ClientTensors], spec: JobSpec, plan: TrainingPlan, version: int) -> list[ClientTensors]:
    """The updates as they are read from here on: as numbers, whatever bits they travelled in."""
    decoded_ones = []
    for update in updates:
        tensors = layout.update_tensors(spec, plan, update.client, version)
        view = update.view and decoded(update.view, tensors)
        batch = decoded_together(update.view or update.read, tensors)
        decoded_ones.append(replace(update, read=decoded(update.read, tensors), view=view, batch=batch))
    return decoded_ones


def server_round(
    spec: JobSpec,
    version: int,
    shelf: Shelf,
    updates: Sequence[ClientTensors],
    device: torch.device,
) -> ServerRound:
    """The round that makes this version, before anybody's update is looked at."""
    clients = sorted(updates, key=lambda update: update.client)
    return ServerRound(spec, version, clients, shelf.weights, shelf.state, device)


def parts_of(spec: JobSpec, plan: TrainingPlan, clients: Sequence[str], version: int, decay: float) -> dict[str, Part]:
    """The files of the version made from these clients' updates; a part without tensors gets no file."""
    parts = {
        "aggregate": (layout.AGGREGATE_FORMAT, layout.aggregate_tensors(spec, plan, clients, version)),
        "state": (layout.STATE_FORMAT, layout.state_tensors(spec, plan, version)),
        "residue": (layout.RESIDUE_FORMAT, layout.residue_tensors(spec, plan)),
    }
    described = {"version": str(version), "decay": repr(decay)}
    return {part: Part(tensors, {"format": name} | described) for part, (name, tensors) in parts.items() if tensors}


def groups(plan: TrainingPlan, clients: Sequence[str], spec: JobSpec) -> Iterator[list[Target] | list[Dense | Buffer]]:
    """The plan cut into batches of equal shape, each within `GROUP_BYTES` of client tensors if a matrix allows it.

    They hang on the job and its clients alone: a matrix in another batch may round otherwise.
    """
    by_shape = sorted(plan.targets, key=lambda t: (t.d, t.k, t.rank, t.name))
    for _, same in groupby(by_shape, key=lambda t: (t.d, t.k, t.rank)):
        alike = list(same)
        size = max(1, GROUP_BYTES // _matrix_bytes(alike[0], clients, spec))
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
    yield from ([item] for item in plan.whole)


def most_at_once(plan: TrainingPlan, clients: Sequence[str], spec: JobSpec) -> int:
    """How many groups are combined side by side at most, so that they stay within `BYTES_AT_ONCE`."""
    shapes = {(target.d, target.k, target.rank): target for target in plan.targets}
    largest = max((_matrix_bytes(target, clients, spec) for target in shapes.values()), default=0)
    return max(1, BYTES_AT_ONCE // max(GROUP_BYTES, largest))


def _matrix_bytes(target: Target, clients: Sequence[str], spec: JobSpec) -> int:
    """What combining one target takes: float64 inside. Changes sent whole count once: they are read where they lie."""
    alone, whole = TrainingPlan((target,), ()), f"{target.name}/delta"
    files = [layout.update_tensors(spec, alone, client, 2) for client in clients]
    entries = ((place, name, tensor.entries) for place, file in enumerate(files) for name, tensor in file.items())
    sent = sum(count for place, name, count in entries if place == 0 or name != whole)
    # every client's change in the full space
    changes = target.d * target.k * (len(clients) if spec.server.is_robust else 1)
    return 8 * (sent + changes)


def aggregate_group(
    group: Sequence[Target] | Sequence[Dense | Buffer], round: ServerRound, shelf: Shelf
) -> GroupResult:
    """The server's step for one group of tensors: the tensors that it writes into each part."""
    result = GroupResult(group)
    targets = [item for item in group if isinstance(item, Target)]
    if targets:
        half = server_half(round.spec)
        change = half.aggregate(targets, round, result)
        if isinstance(change, Factors | Terms):
            downlink.send_factors(targets, change, round, shelf, result)
        elif change is not None:
            downlink.send_matrices(targets, change, round, result)
    for item in group:
        match item:
            case Dense():
                _aggregate_dense(item, round, shelf, result)
            case Buffer():
                _aggregate_buffer(item, round, result)
    return result


def _aggregate_dense(item: Dense, round: ServerRound, shelf: Shelf, result: GroupResult) -> None:
    """The mean change of a weight that is sent whole."""
    changes = round.whole(f"{item.name}/delta")
    downlink.send_delta(item, round.change(item.name, changes), round, shelf, result)


def _aggregate_buffer(item: Buffer, round: ServerRound, result: GroupResult) -> None:
    """The clients' mean buffer, or its robust kin: a measurement, which no rate, momentum or clip changes."""
    name = f"{item.name}/delta"
    result.aggregate[name] = round.combined(round.whole(name)).cpu()


def privacy_spent(spec: JobSpec, version: int) -> dict[str, list[float]]:
    """Statistics of a job with privacy: the epsilon that all versions up to this one have cost together."""
    if spec.privacy is None:
        return {}
    return {"epsilon": [epsilon(spec.privacy.noise_multiplier, version, spec.privacy.delta)]}
