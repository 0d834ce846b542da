"""No client moves the model further than the job allows, whatever tensors it sends: every method that sums changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, isfinite, sqrt
from operator import mul

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from fedgalore.aggregation import server_round
from fedgalore.deltas import change_of, decoded, nothing
from fedgalore.maths.compression import rounded
from fedgalore.rounds import ClientTensors, Shelf
from fedgalore.screening import NO_NORM, norms_of, screened
from fedgalore.soundness import TooFewLeft
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import aggregate_tensors, residue_tensors, update_tensors
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from tests.builders import a_spec
from tests.fedgalore.rounds import CPU, a_round, aggregated

PLAN = TrainingPlan((Target("tall", (40, 12), 3), Target("wide", (12, 40), 3)), dense=(Dense("head", (2, 30)),))
TWO_BASES = {"kind": "fedgalore", "rank": 3, "complement": 0, "update_proj_gap": 2}
FEDGALORE = {"kind": "fedgalore", "rank": 3}
JOBS = {
    **{f"{bits} bits": {"method": FEDGALORE, "wire": {"bits": bits, "down_rank": 3}} for bits in (4, 8, 16, 32)},
    "exact downwards": {"method": FEDGALORE, "wire": {"bits": 32, "down_rank": 0}},
    "exact factors": {"method": TWO_BASES},
    "shared basis": {"method": {"kind": "fedgalore", "rank": 3, "basis": "shared"}},
    "fedavg": {"method": {"kind": "fedavg"}},
    "flora": {"method": {"kind": "flora", "rank": 4}},
    "median": {"method": FEDGALORE, "server": {"aggregation": "median"}},
    "private": {"method": FEDGALORE, "privacy": {"clip_norm": 0.01, "noise_multiplier": 1e-9}},
    "private factors": {"method": TWO_BASES, "privacy": {"clip_norm": 0.01, "noise_multiplier": 1e-9}},
}
# What the wire's rounding may add to the length of what goes down; what it takes goes with later rounds.
LONGER = {4: 1.3, 8: 1.02, 16: 1.001, 32: 1.0001}
Tensors = dict[str, Tensor]


def a_job(kind: str, **server: float) -> JobSpec:
    """With privacy, which clips by itself, `server` is left out."""
    job = JOBS[kind] | {"local": {"steps": 4, "batch_size": 2}, "rounds": {"min_clients": 2}}
    return a_spec(**job if "privacy" in job else job | {"server": job.get("server", {}) | server})


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def honest(spec: JobSpec, seed: int) -> Tensors:
    """Float64 tensors as a client that trains sends them."""
    tensors = {}
    for place, (name, file) in enumerate(update_tensors(spec, PLAN, "a", 2).items()):
        shape = file.quantization.shape if file.quantization else file.shape
        tensor = drawn(100 * seed + place, *shape)
        if name.endswith(("/rms", "/residual")):
            tensor = tensor.abs()
        is_basis = name.rsplit("/", 1)[1].split(".")[0] in ("basis", "left")
        tensors[name] = torch.linalg.qr(tensor)[0] if is_basis else 0.01 * tensor
    return tensors


def pairs_of(tensors: Tensors) -> Iterator[tuple[str, str]]:
    """The names of left and right factors."""
    for left, right in (("left", "right"), ("basis.0", "factor.0"), ("basis.1", "factor.1"), ("lora_B", "lora_A")):
        for target in PLAN.targets:
            if {f"{target.name}/{left}", f"{target.name}/{right}"} <= tensors.keys():
                yield f"{target.name}/{left}", f"{target.name}/{right}"


def halves_that_cancel(size: float, off: float = 0.0) -> Callable[[Tensors], None]:
    """Columns come twice, with rows of opposite signs; and the two bases of a round cancel."""

    def forge(tensors: Tensors) -> None:
        for left, right in pairs_of(tensors):
            half = tensors[left].shape[1] // 2
            tensors[left] = torch.cat([tensors[left][:, :half]] * 2 + [0 * tensors[left][:, 2 * half :]], 1)
            upper = size * tensors[right][:half]
            tensors[right] = torch.cat([upper, -(1 + off) * upper, 0 * tensors[right][2 * half :]])
        for name in [name for name in tensors if name.endswith(".1")]:
            tensors[name] = tensors[name.replace(".1", ".0")] * (-1 if "factor" in name else 1)

    return forge


def rows_that_the_columns_do_not_see(size: float) -> Callable[[Tensors], None]:
    def forge(tensors: Tensors) -> None:
        for left, right in pairs_of(tensors):
            rank = tensors[left].shape[1]
            turn = torch.linalg.qr(drawn(rank, rank, rank))[0]
            tensors[left] = size * drawn(1, tensors[left].shape[0], rank // 2) @ turn[:, : rank // 2].mT
            tensors[right] = turn[:, rank // 2 :] @ drawn(2, rank - rank // 2, tensors[right].shape[1])

    return forge


def sized(left_size: float, right_size: float) -> Callable[[Tensors], None]:
    def forge(tensors: Tensors) -> None:
        for left, right in pairs_of(tensors):
            tensors[left] = left_size * tensors[left].sign()
            tensors[right] = right_size * tensors[right].sign()

    return forge


def balanced_and_cancelling(tensors: Tensors) -> None:
    """Columns that cancel, each as much larger as its row is smaller."""
    halves_that_cancel(1e6)(tensors)
    for left, right in pairs_of(tensors):
        sizes = torch.exp2(torch.linspace(-60, 60, tensors[left].shape[1]).round().double())
        tensors[left], tensors[right] = tensors[left] * sizes, tensors[right] / sizes[:, None]


def of_any_scale(tensors: Tensors) -> None:
    """Entries of 1e-30 beside entries of 1e9, block by block."""
    for name, tensor in tensors.items():
        if not name.endswith(("rms", "residual", "sketch")):
            tensors[name] = tensor * torch.logspace(-30, 9, tensor.numel()).double().view_as(tensor)


def whole_ones(size: float) -> Callable[[Tensors], None]:
    """Whatever has no second factor: whole matrices, heads, factors of a shared basis."""

    def forge(tensors: Tensors) -> None:
        for name in tensors:
            if name.endswith(("/delta", "factor.0")):
                tensors[name] = size * tensors[name].sign()

    return forge


ATTACKS: dict[str, Callable[[Tensors], None]] = {
    "cancel": halves_that_cancel(1e6),
    "cancel, huge": halves_that_cancel(1e19),
    "nearly cancel": halves_that_cancel(1e9, off=1e-7),
    "null space": rows_that_the_columns_do_not_see(1e7),
    "null space, huge": rows_that_the_columns_do_not_see(1e17),
    "cancel, out of scale": balanced_and_cancelling,
    "overflow": sized(3e38, 3e38),
    "balanced overflow": sized(3e38, 1e-38),
    "balanced underflow": sized(1e-40, 1e37),
    "underflow": sized(1e-40, 1e-40),
    "any scale": of_any_scale,
    "whole, largest": whole_ones(3e38),
    "whole, smallest": whole_ones(1e-44),
    "honest": lambda tensors: None,
}


def sent(spec: JobSpec, client: str, tensors: Tensors) -> ClientTensors:
    files = update_tensors(spec, PLAN, client, 2)
    wire = {name: rounded(tensor.float(), files[name].quantization).wire for name, tensor in tensors.items()}
    return ClientTensors(client, 10 if client != "mallory" else 10**15, 1.0, wire.__getitem__)


def forged(spec: JobSpec, attack: str) -> ClientTensors:
    tensors = honest(spec, 9)
    ATTACKS[attack](tensors)
    return sent(spec, "mallory", tensors)


def as_read(spec: JobSpec, client: ClientTensors) -> ClientTensors:
    return replace(client, read=decoded(client.read, update_tensors(spec, PLAN, client.client, 2)))


def state(spec: JobSpec) -> Tensors:
    if spec.method.kind != "fedgalore" or spec.method.form != "shared basis":
        return {}
    return {f"{target.name}/reference": torch.linalg.qr(drawn(7, 12, 3))[0].float() for target in PLAN.targets}


def true_norm(spec: JobSpec, client: ClientTensors) -> float:
    """In extended precision, of the tensors as the server reads them; infinite or NaN where they are not finite."""
    read = as_read(spec, client).read
    names = update_tensors(spec, PLAN, client.client, 2)
    tensors = {name: read(name) for name in names} | state(spec)
    changes = [extended(tensor) for name, tensor in tensors.items() if name.endswith("/delta")]
    for target in PLAN.targets:
        pairs = [(tensors[a], tensors[b]) for a, b in pairs_of(tensors) if a.startswith(target.name)]
        if state(spec):
            pairs = [(tensors[f"{target.name}/reference"], tensors[f"{target.name}/factor.0"])]
        if spec.method.kind == "flora":
            pairs = [(left, spec.method.scale * right) for left, right in pairs]
        with np.errstate(invalid="ignore"):
            changes.append(sum((extended(left) @ extended(right) for left, right in pairs), start=extended(0)))
    return float(np.sqrt(sum(np.square(change).sum() for change in changes)))


def extended(tensor: Tensor | int) -> npt.NDArray[np.longdouble]:
    return np.asarray(tensor, dtype=np.longdouble)


def moved(spec: JobSpec, clients: list[ClientTensors]) -> float:
    """How far a round moves the weights, with what goes with later rounds."""
    weights = {name: torch.zeros(file.shape) for name, file in PLAN.weights().items()}
    secret = "00" if spec.privacy else None
    done = aggregated(PLAN, a_round(spec, clients, weights, state(spec), number=2, secret=secret))
    kept = [client.client for client in clients if client.client not in done.dropped]
    tensors = aggregate_tensors(spec, PLAN, kept, 2)
    read = decoded(done.aggregate.__getitem__, tensors)
    aggregate = {name: read(name).double() for name in tensors}
    left_out = decoded(done.residue.__getitem__, residue_tensors(spec, PLAN))
    changes = [change_of(item, aggregate) for item in (*PLAN.targets, *PLAN.dense)]
    later = [target.name for target in PLAN.targets if f"{target.name}/left" in done.residue]
    changes += [left_out(f"{name}/left").double() @ left_out(f"{name}/right").double() for name in later]
    return sqrt(sum(float(change.square().sum()) for change in changes if change is not None))


@pytest.mark.parametrize("kind", JOBS)
def test_a_forged_change_moves_the_model_no_further_than_a_clipped_one(kind: str) -> None:
    spec = a_job(kind, clip_norm=2)
    clients = [sent(spec, name, honest(spec, seed)) for seed, name in enumerate("ab")]
    norms = [true_norm(spec, client) for client in clients]
    claims = [1, 1, 3]  # the last one claims more, which counts for nothing
    lengths = [*norms, 2 * max(norms)]
    most = sum(map(mul, claims, lengths)) / sum(claims) if spec.privacy is None else spec.privacy.clip_norm
    for attack in ATTACKS:
        length = moved(spec, [*clients, forged(spec, attack)])
        assert length <= LONGER[spec.bits] * most, (attack, length, most)


@pytest.mark.parametrize("kind", [kind for kind, job in JOBS.items() if "privacy" not in job])
def test_a_forged_norm_is_left_out_as_the_true_one_would_be(kind: str) -> None:
    spec = a_job(kind, drop_norm=2)
    shelf = Shelf(nothing, state(spec).get)
    clients = [as_read(spec, sent(spec, name, honest(spec, seed))) for seed, name in enumerate("ab")]
    longest = 2 * max(true_norm(spec, sent(spec, "a", honest(spec, seed))) for seed in range(2))
    for attack in ATTACKS:
        forgery = forged(spec, attack)
        dropped = screened(server_round(spec, 2, shelf, [*clients, as_read(spec, forgery)], CPU), PLAN)[1]
        norm = true_norm(spec, forgery)
        assert norm <= longest or list(dropped) == ["mallory"], attack
        assert isfinite(norm) or dropped == {"mallory": NO_NORM}, attack
        assert attack != "honest" or not dropped


@pytest.mark.parametrize("kind", JOBS)
def test_a_norm_is_never_below_the_true_one_and_an_honest_one_is_true(kind: str) -> None:
    spec = a_job(kind)
    for attack in ATTACKS:
        client = forged(spec, attack)
        (norm,) = norms_of(server_round(spec, 2, Shelf(nothing, state(spec).get), [as_read(spec, client)], CPU), PLAN)
        true = true_norm(spec, client)
        assert norm >= (1 - 1e-6) * true if isfinite(true) else norm == inf, attack
        assert attack != "honest" or norm == pytest.approx(true, rel=1e-6)


def test_a_round_in_which_nobodys_change_is_finite_is_refused() -> None:
    spec = a_job("flora", clip_norm=2)
    this = a_round(spec, [forged(spec, "overflow")], {}, number=2)
    with pytest.raises(TooFewLeft, match=r"only 0 of 1 updates can be taken.* mallory: .*; lower local\.learning_rate"):
        aggregated(PLAN, this)
