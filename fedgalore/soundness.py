"""Whether what a round makes may be written, and whose update makes it unfit. ALGORITHM, "What is committed".

Every tensor of a group is looked at before a sink gets it. A group that is not sound is made once more of each client's
update alone: a client whose update is not sound by itself is left out. Where each is, and only all of them together are
not, it is the one that sends the largest numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf, isfinite, sqrt
from statistics import median_low
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedgalore.maths.bounds import (
    CALM,
    FARTHEST,
    LARGEST,
    WIDEST,
    OutOfBounds,
    check,
    largest,
    largest_of_product,
)
from fedgalore.maths.mean import squared_norm, squared_norm_of_product
from fedgalore.maths.parallel import in_order
from fedgalore.maths.quantization import NotQuantizable, told_by
from fedgalore.replay import Aggregate, Replayed
from fedgalore.rounds import GroupResult, ServerRound
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan

Item = Target | Dense | Buffer
Group = Sequence[Target] | Sequence[Dense | Buffer]
Make = Callable[[Group, ServerRound], GroupResult]
_TINY: Final = 1e-12  # what the others send where they send zeros
T = TypeVar("T")

# What arithmetic on numbers that are not finite, or too large, raises.
_BREAKS: Final = (ArithmeticError, NotQuantizable, torch.linalg.LinAlgError, np.linalg.LinAlgError)  # type: ignore[attr-defined]


class Unsound(ArithmeticError):
    """A group must not be written; the message says why."""

    def __init__(self, group: Group, reason: str) -> None:
        super().__init__(reason)
        self.group = group


class Unfit(ValueError):
    """Clients whose updates make a version that must not be written, each with the reason."""

    def __init__(self, clients: Mapping[str, str]) -> None:
        super().__init__(_listed(clients))
        self.clients = dict(clients)


class TooFewLeft(ValueError):
    """Without the clients that were left out, each with the reason, a version would be of too few updates."""

    def __init__(self, left: int, needed: int, dropped: Mapping[str, str]) -> None:
        super().__init__(
            f"only {left} of {left + len(dropped)} updates can be taken, and rounds.min_clients is {needed}; left out: "
            f"{_listed(dropped)}; where training diverged, lower local.learning_rate"
        )
        self.left, self.dropped = left, dict(dropped)


def without_the_unfit(make: Callable[[Mapping[str, str]], T]) -> T:
    """What `make` makes of a round, without those whose updates it finds unfit; they may be found one after the other.

    Args:
        make: takes the clients to leave out, each with the reason.
    """
    left_out: dict[str, str] = {}
    while True:
        try:
            return make(left_out)
        except Unfit as found:
            left_out |= found.clients


def sound(group: Group, round: ServerRound, make: Make) -> GroupResult:
    """What `make` makes of a group, looked at.

    Raises:
        Unsound: a tensor of it is not finite or far too large, or the weights would be.
    """
    try:
        result = make(group, round)
        read = _read(group, round, result)
        for item in group:
            _check(item, round, result, read)
        for name, values in result.statistics.items():
            if not all(map(isfinite, values)):
                raise OutOfBounds(f"{name} of {group[0].name} is NaN or infinite")
        return result
    except _BREAKS as error:
        raise Unsound(group, str(error)) from error


def culprits(found: Unsound, groups: Sequence[Group], round: ServerRound, make: Make) -> dict[str, str]:
    """Whose updates to leave out, each with the reason; at least one client's."""
    alone = {client.client: _alone(round, place) for place, client in enumerate(round.clients)}
    faults = dict(zip(alone, in_order(lambda one: _fault(groups, one, make), alone.values()), strict=True))
    unfit = {client: f"its update is not fit: {fault}" for client, fault in faults.items() if fault is not None}
    if unfit:
        return unfit
    return {_loudest(found.group, round): f"no other update is as large, and with all of them {found}"}


def _alone(round: ServerRound, place: int) -> ServerRound:
    """The round as if this client were its only one: without noise, and with nobody to outvote it."""
    server = round.spec.server.model_copy(update={"aggregation": "mean"})
    spec = round.spec.model_copy(update={"privacy": None, "server": server})
    clips = (round.clips[place],) if round.clips else ()
    return replace(round, spec=spec, clients=[round.clients[place]], clips=clips)


def _fault(groups: Sequence[Group], alone: ServerRound, make: Make) -> str | None:
    for group in groups:
        try:
            sound(group, alone, make)
        except Unsound as error:
            return str(error)
    return None


def _loudest(group: Group, round: ServerRound) -> str:
    """The client with the tensor that exceeds most what others send in its place, whatever its factors cancel to."""
    louder = {client.client: 0.0 for client in round.clients}
    for item in group:
        for name in layout.update_tensors(round.spec, _plan_of(item), round.clients[0].client, round.number):
            sizes = [largest(client.whole(name)) for client in round.clients]
            usual = max(median_low(sizes), _TINY)
            for client, size in zip(louder, sizes, strict=True):
                louder[client] = max(louder[client], size / usual)
    return max(louder, key=lambda client: (louder[client], client))


def _check(item: Item, round: ServerRound, result: GroupResult, read: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Looks at all that a round writes of an item, and at its weights where they move far.

    `read`: of the item's group, as `_read` gives it.
    """
    parts = {part: {name: read[part][name] for name in _of_item(item, tensors)} for part, tensors in result.parts()}
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            check(f"{name} of the {part}", tensor)
    calm = WIDEST / 2**10 if isinstance(item, Buffer) else CALM  # where none is, few versions come near the bound
    if not sum(_reach(item, round.spec, parts[part]) for part in ("aggregate", "residue")) <= calm:
        weights, later = _weights(item, round, result.aggregate), _later(item, parts["residue"])
        check_weights(weights, round.spec, _plan_of(item), later)


def _later(item: Item, residue: Mapping[str, Tensor]) -> float:
    """What a residue moves a weight's entries by at most when it goes down: twice its norm, as codes round it again."""
    told = {name.rsplit("/", 1)[-1]: tensor for name, tensor in residue.items()}
    squared = squared_norm(told[item.name]) if item.name in told else 0.0
    if "left" in told:
        squared += float(squared_norm_of_product(told["left"], told["right"]))
    return 2 * sqrt(squared)


def check_weights(weights: Iterable[tuple[str, Tensor]], spec: JobSpec, plan: TrainingPlan, later: float = 0.0) -> None:
    """Looks at tensors of a version, as `layout.weights_tensors` lists them, before anybody takes them for one.

    Args:
        later: what a residue adds to trained weights at most; there has to be room for it.

    Raises:
        OutOfBounds: one holds NaN or infinite values, or far too large ones.
    """
    for _ in checked(weights, spec, plan, later):
        pass


def checked(
    weights: Iterable[tuple[str, Tensor]], spec: JobSpec, plan: TrainingPlan, later: float = 0.0
) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, each looked at as `check_weights` does before it is given on."""
    files = layout.weights_tensors(spec, plan, 1)
    most = dict.fromkeys((item.name for item in plan.trained), LARGEST - later)
    most |= dict.fromkeys((item.name for item in plan.buffers), WIDEST)
    for name, tensor in weights:
        check(name, told_by(tensor, files[name].quantization), most.get(name, FARTHEST))
        yield name, tensor


def _weights(item: Item, round: ServerRound, aggregate: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """The item's tensors in the version that the round makes."""
    old = {}
    for name in layout.weights_tensors(round.spec, _plan_of(item), round.number):
        with suppress(KeyError):  # no version before the first round's carries a step
            old[name] = round.weights(name)
    return Replayed(old, [Aggregate(aggregate, round.decay)], _plan_of(item), round.spec).replayed(item).items()


def _of_item(item: Item, names: Iterable[str]) -> list[str]:
    """Those of an item."""
    return [name for name in names if name == item.name or name.rsplit("/", 1)[0] == item.name]


def _read(group: Group, round: ServerRound, result: GroupResult) -> dict[str, dict[str, Tensor]]:
    """A group's tensors by part of the version, as whoever reads them decodes them: those of one kind at once."""
    spec, plan, clients = round.spec, _plan_of(*group), [client.client for client in round.clients]
    files = {
        "aggregate": layout.aggregate_tensors(spec, plan, clients, round.number),
        "state": layout.state_tensors(spec, plan, round.number),
        "residue": layout.residue_tensors(spec, plan),
    }
    read: dict[str, dict[str, Tensor]] = {}
    for part, tensors in result.parts():
        codes = {name: files[part][name].quantization if name in files[part] else None for name in tensors}
        read[part] = {name: tensor for name, tensor in tensors.items() if codes[name] is None}
        for code in {code for code in codes.values() if code is not None}:
            names = [name for name in tensors if codes[name] == code]
            read[part] |= zip(names, told_by(torch.stack([tensors[name] for name in names]), code), strict=True)
    return read


def _reach(item: Item, spec: JobSpec, change: Mapping[str, Tensor]) -> float:
    """A bound of how far a change moves a weight's entries; infinite where a method tells it by tensors of its own."""
    told = {name.rsplit("/", 1)[-1]: tensor for name, tensor in change.items()}
    whole = [told.pop(suffix) for suffix in ("dense", "delta", item.name) if suffix in told]
    reach = sum(map(largest, whole))
    if "left" in told and "right" in told:
        reach += largest_of_product(told.pop("left"), told.pop("right"))
    if "lora_B" in told:
        last, scale = told.pop("lora_B"), getattr(spec.method, "scale", 1.0)
        first = told.pop("lora_A", torch.ones(last.shape[-1], 1))  # one that is never sent is drawn within 1
        reach += scale * largest_of_product(last, first)
    return inf if told else reach


def _plan_of(*items: Item) -> TrainingPlan:
    """The plan of some items."""
    targets = tuple(item for item in items if isinstance(item, Target))
    dense = tuple(item for item in items if isinstance(item, Dense))
    return TrainingPlan(targets, dense, tuple(item for item in items if isinstance(item, Buffer)))


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{client}: {reason}" for client, reason in sorted(reasons.items()))
