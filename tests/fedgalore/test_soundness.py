"""Nothing that is not finite, or far too large, is made a version: whose update it is is found and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, nan

import pytest
import torch
from torch import Tensor

from fedgalore.maths.bounds import FARTHEST, LARGEST, OutOfBounds, check, largest_of_product
from fedgalore.methods.halves import server_half
from fedgalore.replay import apply_aggregate
from fedgalore.rounds import ClientTensors
from fedgalore.soundness import TooFewLeft, check_weights
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import update_tensors
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan
from tests.builders import a_spec
from tests.fedgalore.rounds import Aggregated, a_round, aggregated
from tests.fedgalore.test_norms import ATTACKS, JOBS, PLAN, Tensors, drawn, honest, sent, state

ADAPTERS = {
    kind: {"method": {"kind": kind, "rank": 3}} for kind in ("fedit", "ffa_lora", "fedex_lora", "frlora", "fedsvd")
}
AJIVE = {
    f"ajive, {bits} bits": {"method": {"kind": "fedgalore", "rank": 3, "state_sync": "ajive"}, "wire": {"bits": bits}}
    for bits in (4, 32)
}
MOMENTUM = {"momentum": {"method": {"kind": "fedgalore", "rank": 3, "global_momentum": 0.5}}}
KINDS = JOBS | ADAPTERS | AJIVE | MOMENTUM


def a_job(kind: str, **rounds: int) -> JobSpec:
    return a_spec(**KINDS[kind] | {"local": {"steps": 4, "batch_size": 2}, "rounds": {"min_clients": 2} | rounds})


def start(spec: JobSpec, plan: TrainingPlan = PLAN) -> Tensors:
    """The weights of a version."""
    weights = {
        name: 0.05 * drawn(50 + place, *file.shape).float() for place, (name, file) in enumerate(plan.weights().items())
    }
    return weights | server_half(spec).carried(spec, plan, weights.__getitem__)


def hostile(spec: JobSpec, forge: Callable[[Tensors], None], client: str = "mallory") -> ClientTensors:
    tensors = honest(spec, 9)
    forge(tensors)
    return sent(spec, client, tensors)


def all_of(size: float, *ends: str) -> Callable[[Tensors], None]:
    """Every entry of the tensors with such names is this large; of all, where no name is said."""

    def forge(tensors: Tensors) -> None:
        for name in tensors:
            if not ends or name.endswith(ends):
                tensors[name] = torch.full_like(tensors[name], size)

    return forge


WIDE = ATTACKS | {
    f"{name} of {size:g}": all_of(size, *ends)
    for name, ends in {
        "all": (),
        "factors": ("left", "right", "lora_A", "lora_B", ".0", ".1"),
        "moments": ("rms", "residual"),
    }.items()
    for size in (6e4, 1e9, 1e18, 1e30, 3e38)
}


def is_sound(spec: JobSpec, made: Aggregated, plan: TrainingPlan = PLAN) -> None:
    check_weights(made.weights.items(), spec, plan)
    for part in (made.aggregate, made.state, made.residue):
        assert all(tensor.dtype == torch.uint8 or float(tensor.abs().max()) <= FARTHEST for tensor in part.values())


def check_that_it_alone_is_left_out(kind: str, attacks: Iterable[str]) -> None:
    spec, secret = a_job(kind), "00" if "private" in kind else None
    others, weights = [sent(spec, name, honest(spec, seed)) for seed, name in enumerate("ab")], start(spec)

    def made(*more: ClientTensors) -> Aggregated:
        return aggregated(PLAN, a_round(spec, [*others, *more], weights, state(spec), number=2, secret=secret))

    without = made()
    for attack in attacks:
        version = made(hostile(spec, WIDE[attack]))
        is_sound(spec, version)
        assert version.dropped.keys() <= {"mallory"}, attack
        assert not version.dropped or attack != "honest"
        assert version.dropped or attack != "all of 3e+38" or spec.server.is_robust
        if version.dropped:  # the bits of a round that it was never in
            assert all(torch.equal(version.weights[name], without.weights[name]) for name in without.weights), attack


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_sends_far_too_large_numbers_is_left_out_alone(kind: str) -> None:
    check_that_it_alone_is_left_out(kind, ["all of 3e+38"])


def test_one_whose_factors_cancel_is_found_although_its_update_is_fit_by_itself() -> None:
    check_that_it_alone_is_left_out("momentum", ["cancel, huge"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_client_sends_the_version_is_sound_and_it_alone_is_left_out(kind: str) -> None:
    check_that_it_alone_is_left_out(kind, WIDE)


@pytest.mark.parametrize("size", [1e6, 2e6])
def test_what_a_cut_leaves_out_of_forged_changes_stops_no_later_round(size: float) -> None:
    """As large as may be, round after round, and of more directions than go down in one."""
    spec = a_job("8 bits")
    weights, residue, others = start(spec), dict[str, Tensor](), [sent(spec, name, honest(spec, 1)) for name in "ab"]
    for number in (2, 3):
        forged = []
        for seed, client in enumerate(("eve", "mallory"), start=5):
            tensors = honest(spec, number * seed)
            forged.append(sent(spec, client, {n: t * size if n.endswith("right") else t for n, t in tensors.items()}))
        made = aggregated(PLAN, a_round(spec, [*others, *forged], weights, residue=residue, number=number))
        weights, residue = made.weights, made.residue
    last = aggregated(PLAN, a_round(spec, others, weights, residue=residue, number=4))
    assert not last.dropped
    is_sound(spec, last)


@pytest.mark.parametrize("kind", ["4 bits", "fedavg", "fedit", "median"])
def test_a_round_of_too_few_sound_updates_fails_in_words(kind: str) -> None:
    spec = a_job(kind, min_clients=3)
    updates = [sent(spec, "a", honest(spec, 0)), *(hostile(spec, all_of(3e38), name) for name in ("eve", "mallory"))]
    words = (
        r"^only 1 of 3 updates .*, and rounds\.min_clients is 3; left out: eve: .*; mallory: its update is not fit: "
    )
    with pytest.raises(TooFewLeft, match=words) as caught:
        aggregated(PLAN, a_round(spec, updates, start(spec), number=2))
    assert caught.value.dropped.keys() == {"eve", "mallory"}


SMALL = TrainingPlan((Target("w", (4, 6), 2),), (Dense("head", (3, 4)),), (Buffer("variance", (5,), True),))


def of_fedavg(**changes: tuple[float, float, float]) -> tuple[JobSpec, list[ClientTensors]]:
    """Clients that change the weight, the head and the buffer by these numbers."""
    spec, updates = a_spec(method={"kind": "fedavg"}), []
    for client, numbers in changes.items():
        names = update_tensors(spec, SMALL, client, 1)
        by = dict(zip(("w/delta", "head/delta", "variance/delta"), numbers, strict=True))
        tensors = {name: torch.full(file.shape, by[name]) for name, file in names.items()}
        updates.append(ClientTensors(client, 10, 1.0, tensors.__getitem__))
    return spec, updates


CALM_CLIENTS = {"a": (0.1, 0.1, 0.1), "b": (0.2, 0.1, -0.2)}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ((2e5, 0.0, 0.0), "w"),
        ((0.0, -2e5, 0.0), "head"),
        ((0.0, 0.0, 6e9), "variance"),
        ((0.0, inf, 0.0), "head/delta"),
        ((0.0, 0.0, nan), "variance/delta"),
    ],
)
def test_the_reason_names_the_tensor(change: tuple[float, float, float], name: str) -> None:
    spec, updates = of_fedavg(**CALM_CLIENTS, mallory=change)
    made = aggregated(SMALL, a_round(spec, updates, start(spec, SMALL)))
    assert list(made.dropped) == ["mallory"]
    assert made.dropped["mallory"].startswith(f"its update is not fit: {name}")


@pytest.mark.parametrize("sign", [1, -1])
def test_what_grows_round_by_round_ends_at_the_bound_and_the_largest_is_left_out(sign: int) -> None:
    """Each of the changes is far below what a weight may be; together with what was there it is not."""
    spec, updates = of_fedavg(**CALM_CLIENTS, mallory=(sign * 900.0, 0.0, 0.0))
    weights = start(spec, SMALL) | {"w": torch.full((4, 6), sign * (LARGEST - 100))}
    made = aggregated(SMALL, a_round(spec, updates, weights))
    assert list(made.dropped) == ["mallory"]
    assert "w holds values as large as" in made.dropped["mallory"]
    is_sound(spec, made, SMALL)


def test_only_those_that_are_not_fit_by_themselves_are_left_out() -> None:
    spec, updates = of_fedavg(
        **{name: (size, 0.1, 0.1) for name, size in zip("abcd", (60.0, 70.0, 65.0, 59.0), strict=True)}
    )
    spec = spec.model_copy(update={"server": spec.server.model_copy(update={"learning_rate": 10.0})})
    weights = start(spec, SMALL) | {"w": torch.full((4, 6), LARGEST - 620)}
    made = aggregated(SMALL, a_round(spec, updates, weights))
    assert made.dropped.keys() == {"b", "c"}
    is_sound(spec, made, SMALL)


def test_buffers_stay_what_they_may_be() -> None:
    spec, updates = of_fedavg(**CALM_CLIENTS, mallory=(0.0, 0.0, -1e9))
    made = aggregated(SMALL, a_round(spec, updates, start(spec, SMALL)))
    assert not made.dropped
    assert float(made.weights["variance"].min()) == 0  # no mean of variances is negative


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("fedavg", "head/delta"), ("fedit", "tall/lora_B"), ("32 bits", "wide/left"), ("momentum", "tall/left")],
)
def test_a_cut_that_is_not_finite_makes_its_replay_fail_in_words(kind: str, tensor: str) -> None:
    spec = a_job(kind)
    made = aggregated(PLAN, a_round(spec, [sent(spec, name, honest(spec, 1)) for name in "ab"], start(spec), number=2))
    spoilt = made.aggregate[tensor].clone()
    spoilt.view(-1).view(torch.uint8)[:4] = torch.tensor([0, 0, 0xC0, 0x7F])  # NaN: a number, or the factor of a code
    damaged = made.aggregate | {tensor: spoilt}
    with pytest.raises(OutOfBounds, match=f"{tensor.split('/', maxsplit=1)[0]} holds NaN or infinite values"):
        apply_aggregate(start(spec), damaged, made.decay, PLAN, spec)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, nan], "NaN or infinite"),
        ([-inf, 1.0], "NaN or infinite"),
        ([1.0, -LARGEST * 1.01], r"as large as 3\.31e\+04; 32768"),
    ],
)
def test_weights_are_looked_at_before_they_are_written(values: list[float], words: str) -> None:
    spec = a_spec(method={"kind": "fedavg"})
    weights = start(spec, SMALL) | {"head": torch.tensor(values * 6).view(3, 4)}
    with pytest.raises(OutOfBounds, match=f"^head holds .*{words}"):
        check_weights(weights.items(), spec, SMALL)
    check_weights(start(spec, SMALL).items(), spec, SMALL)


def test_the_bound_of_a_product_is_never_below_its_largest_entry() -> None:
    for seed in range(5):
        left, right = drawn(seed, 7, 3), drawn(seed + 10, 3, 9)
        assert float((left @ right).abs().max()) <= largest_of_product(left, right)
    check("nothing", torch.empty(0, 3))
    check("w/rms of the state", torch.tensor([1e8]))  # of gradients whose targets are as large
    with pytest.raises(OutOfBounds, match="w/rms of the state holds values as large as 1e"):
        check("w/rms of the state", torch.tensor([1e18]))
