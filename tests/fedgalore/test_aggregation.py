"""The server's half: exact means held as factors, what goes down, aligned states, error feedback, order and bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgalore import aggregation as server
from fedgalore.aggregation import groups
from fedgalore.deltas import change_of, decoded, orient_back
from fedgalore.maths.compression import rounded
from fedgalore.maths.mean import apply_factors, mean_of_factors
from fedgalore.maths.parallel import one_thread
from fedgalore.maths.projector import orient
from fedgalore.maths.second_moment import SecondMomentSketch, carry
from fedgalore.maths.shared_signal import extract
from fedgalore.methods.fedgalore import server as method
from fedgalore.methods.fedgalore.layout import bases_per_round
from fedgalore.rounds import ClientTensors
from fedgalore.spec.layout import (
    aggregate_tensors,
    residue_tensors,
    state_tensors,
    update_tensors,
    weights_tensors,
)
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan
from protos.codec import SafetensorsWriter, open_update
from tests.builders import a_spec
from tests.fedgalore.rounds import a_round, aggregated, specs_of

PLAN = TrainingPlan(
    targets=(
        Target("wide.a", (12, 40), 3),
        Target("tall", (40, 12), 3),
        Target("wide.b", (12, 40), 3),
        Target("square", (10, 10), 3),
    ),
    dense=(Dense("head", (2, 10)), Dense("bias", (2,))),
)


def mean_of(bases, factors, weights):
    """`mean_of_factors` of stacked bases `(M, J, B, d, r)` and factors `(M, J, B, r, k)`."""
    stretches = bases.shape[1]
    shares = [share for share in weights.tolist() for _ in range(stretches)]
    return mean_of_factors(list(bases.flatten(0, 1)), list(factors.flatten(0, 1)), shares)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def global_weights(seed: int = 100) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    return {name: torch.randn(spec.shape, generator=generator) for name, spec in PLAN.weights().items()}


def a_client(name: str, spec, num_examples: int = 10, decay: float = 1.0, seed: int | None = None) -> ClientTensors:
    """An update of random but valid tensors."""
    generator = seeded(sum(name.encode()) if seed is None else seed)
    tensors = {}
    for key, tensor in update_tensors(spec, PLAN, name, 1).items():
        code = tensor.quantization
        drawn = torch.randn(code.shape if code else tensor.shape, generator=generator)
        kind = key.rsplit("/", 1)[1].split(".")[0]
        if kind in ("basis", "left"):
            drawn = torch.linalg.qr(drawn)[0]
        else:
            drawn = 0.1 * drawn if kind in ("factor", "right", "delta") else drawn.square()
        tensors[key] = rounded(drawn, code).wire
    return ClientTensors(name, num_examples, decay, tensors.__getitem__)


def factors_of(spec) -> list[tuple[str, str]]:
    """Suffixes of the pairs that tell a client's change."""
    if spec.method.cuts:
        return [("left", "right")]
    return [(f"basis.{j}", f"factor.{j}") for j in range(bases_per_round(spec))]


def moved(client: ClientTensors, target: Target, spec) -> torch.Tensor:
    """What one client sent of its change, oriented, float64."""
    read = decoded(client.read, update_tensors(spec, PLAN, client.client, 1))
    pairs = [[read(f"{target.name}/{part}").double() for part in pair] for pair in factors_of(spec)]
    return sum(left @ right for left, right in pairs)


def sketch_of(client: ClientTensors, target: Target, spec) -> SecondMomentSketch:
    read = decoded(client.read, update_tensors(spec, PLAN, client.client, 1))
    rms, residual = read(f"{target.name}/rms"), read(f"{target.name}/residual")
    basis = torch.linalg.qr(read(f"{target.name}/{factors_of(spec)[-1][0]}")[:, : len(rms)])[0]
    return SecondMomentSketch(basis, rms.square(), residual.square())


def aggregate(clients, spec, weights=None, residue=None, round_number=1):
    weights = global_weights() if weights is None else weights
    return aggregated(PLAN, a_round(spec, clients, weights, None, residue, round_number))


def moments(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state that travels exactly, with the second moments of its roots."""
    named = {name: tensor if name.endswith("/reference") else tensor.square() for name, tensor in state.items()}
    return {name.replace("/rms", "/second_moment"): tensor for name, tensor in named.items()}


def a_spec_of(**method_choices):
    local = {"steps": method_choices.pop("steps", 4), "batch_size": 2}
    server = {
        "learning_rate": method_choices.pop("server_rate", 1.0),
        "clip_norm": method_choices.pop("clip_norm", None),
    }
    exact = {"bits": 32, "down_rank": 0}
    wire = {name: method_choices.pop(name, exact.get(name)) for name in ("bits", "up_rank", "down_rank")}
    if method_choices.get("complement") == 0:
        wire = {}
    method = {"rank": 3, "update_proj_gap": 2, **method_choices}
    return a_spec(method=method, wire=wire, local=local, server=server)


SENDING = pytest.mark.parametrize("complement", [0, 1], ids=["exactly", "the leading part"])


# --- factors -------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    clients=st.integers(1, 4),
    stretches=st.integers(1, 3),
    batch=st.integers(1, 2),
    d=st.integers(1, 9),
    more=st.integers(0, 9),
    share=st.floats(0.1, 1),
    seed=st.integers(0, 2**31),
)
def test_mean_of_factors_is_the_mean_in_the_full_space(clients, stretches, batch, d, more, share, seed):
    generator, rank = seeded(seed), max(1, int(share * d))
    bases = torch.linalg.qr(torch.randn(clients, stretches, batch, d, rank, generator=generator))[0]
    factors = torch.randn(clients, stretches, batch, rank, d + more, generator=generator)
    weights = torch.rand(clients, generator=generator, dtype=torch.float64) + 0.1
    weights /= weights.sum()
    mean = mean_of(bases, factors, weights)
    expected = torch.einsum("m,mjbdr,mjbrk->bdk", weights, bases.double(), factors.double())
    torch.testing.assert_close(mean.left.double() @ mean.right.double(), expected, rtol=1e-5, atol=1e-5)
    columns = min(d, clients * stretches * rank)
    assert mean.left.shape == (batch, d, columns)
    identity = torch.eye(columns).expand(batch, columns, columns)
    torch.testing.assert_close(mean.left.mT @ mean.left, identity, rtol=0, atol=1e-5)
    carried = mean.right.norm(dim=-1)
    assert (carried[:, :-1] >= carried[:, 1:] - 1e-4).all()


def test_factors_of_different_ranks_have_the_mean_of_their_products():
    lefts = [torch.randn(2, 9, rank, generator=seeded(rank)) for rank in (1, 4, 2)]  # no orthonormal columns needed
    rights = [torch.randn(2, rank, 12, generator=seeded(10 + rank)) for rank in (1, 4, 2)]
    mean = mean_of_factors(lefts, rights, [0.5, -1.0, 0.25])
    expected = sum(
        w * left.double() @ right.double() for w, left, right in zip([0.5, -1, 0.25], lefts, rights, strict=True)
    )
    torch.testing.assert_close(mean.left.double() @ mean.right.double(), expected, rtol=1e-5, atol=1e-5)
    assert mean.left.shape == (2, 9, 7)


def test_mean_of_tensors_is_a_weighted_sum_in_float64():
    changes = [torch.tensor([1e8, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([-1e8, 3.0])]
    clients = [ClientTensors(name, count, 1.0, {}.__getitem__) for name, count in (("a", 1), ("b", 2), ("c", 1))]
    assert a_round(a_spec(), clients, {}).server.mean(changes).tolist() == [0.5, 2.0]


# --- a round -------------------------------------------------------------------------------------------------


@SENDING
@pytest.mark.parametrize("steps", [2, 4])
def test_new_weights_are_the_weighted_mean_of_the_clients_weights(steps, complement):
    spec = a_spec_of(steps=steps, complement=complement)
    clients = [a_client(name, spec, n, 0.97) for name, n in (("a", 5), ("b", 30), ("c", 15))]
    old, result = global_weights(), aggregate([*clients], spec)
    for target in PLAN.targets:
        each = [0.97 * orient(old[target.name]).double() + moved(c, target, spec) for c in clients]
        expected = orient_back((each[0] * 5 + each[1] * 30 + each[2] * 15) / 50, target)
        torch.testing.assert_close(result.weights[target.name].double(), expected, rtol=1e-5, atol=1e-5)
    for item in PLAN.dense:
        deltas = [c.read(f"{item.name}/delta") for c in clients]
        expected = old[item.name] + (deltas[0] * 5 + deltas[1] * 30 + deltas[2] * 15) / 50
        torch.testing.assert_close(result.weights[item.name], expected)


def test_server_rate_multiplies_the_mean_change_decay_included():
    full, half = (
        aggregate([a_client(n, s, decay=0.9) for n in "ab"], s) for s in (a_spec_of(), a_spec_of(server_rate=0.5))
    )
    old = global_weights()
    for name in PLAN.weights():
        torch.testing.assert_close(half.weights[name], (old[name] + full.weights[name]) / 2, rtol=1e-5, atol=1e-5)


def test_mixing_weights_are_shares_of_examples_and_decay_is_their_mean():
    spec = a_spec_of(server_rate=0.5)
    clients = [a_client("a", spec, 30, 0.9), a_client("b", spec, 10, 0.7)]
    this = a_round(spec, clients, {}).server
    assert this.shares.tolist() == [0.75, 0.25]
    assert this.decay == pytest.approx(1 + 0.5 * (0.75 * -0.1 + 0.25 * -0.3))


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("down_rank", [0, 2, 9, None])
@pytest.mark.parametrize("rate", [1.0, 0.7])
@SENDING
def test_the_weights_are_those_before_and_what_goes_down(steps, down_rank, rate, complement):
    spec = a_spec_of(steps=steps, down_rank=down_rank, server_rate=rate, complement=complement)
    clients = [a_client(name, spec, decay=0.93) for name in "abc"]
    result, old = aggregate(clients, spec), global_weights()
    assert specs_of(result.weights) == weights_tensors(spec, PLAN, 1)
    assert all(tensor.is_contiguous() for tensor in result.weights.values())
    for target in PLAN.targets:
        change = change_of(target, result.aggregate)
        torch.testing.assert_close(result.weights[target.name], (1 - 0.07 * rate) * old[target.name] + change)
    for item in PLAN.dense:
        assert torch.equal(result.weights[item.name], old[item.name] + result.aggregate[f"{item.name}/delta"])


@pytest.mark.parametrize("offset", [1, 3, 5, 15])
@pytest.mark.parametrize("shape", [(33, 7, 65), (64, 24, 384)])
def test_factors_applied_give_the_same_bits_wherever_they_lie_in_memory(offset, shape):
    """A file maps its tensors at any multiple of four bytes, the server's are slices of a batch."""
    d, q, k = shape
    generator = seeded(5)
    tensors = [torch.randn(*s, generator=generator) for s in ((d, k), (d, q), (q, k))]
    elsewhere = [torch.empty(t.numel() + offset)[offset:].view(t.shape).copy_(t) for t in tensors]
    assert torch.equal(apply_factors(tensors[0], 0.99, *tensors[1:]), apply_factors(elsewhere[0], 0.99, *elsewhere[1:]))


def test_quantized_factors_count_as_the_matrices_that_they_tell(tmp_path):
    spec, exact = a_spec_of(state_sync="ajive", bits=4), a_spec_of(state_sync="ajive")
    coded, told = [], []
    for client in (a_client(name, exact) for name in "ab"):
        tensors = update_tensors(spec, PLAN, client.client, 1)
        values = {name: rounded(client.read(name), tensor.quantization).wire for name, tensor in tensors.items()}
        path = tmp_path / client.client
        with SafetensorsWriter(path, tensors, {}) as writer:
            for name, value in values.items():
                writer.write(name, value.numpy())
        file = open_update(path)
        coded.append(replace(client, read=lambda name, file=file: torch.from_numpy(file.tensor(name)).clone()))
        told.append(replace(client, read=decoded(values.__getitem__, tensors)))
        assert not torch.equal(told[-1].read("tall/left"), client.read("tall/left"))
        torch.testing.assert_close(told[-1].read("tall/left"), client.read("tall/left"), atol=0.08, rtol=0)
    result, expected = aggregate(coded, spec), aggregate(told, exact)
    assert all(torch.equal(result.weights[target.name], expected.weights[target.name]) for target in PLAN.targets)


@pytest.mark.parametrize(("clients", "smaller"), [(1, True), (6, False)])
def test_the_change_goes_down_as_factors_where_these_are_smaller(clients, smaller):
    spec = a_spec_of(complement=0, global_momentum=0)
    result = aggregate([a_client(str(i), spec) for i in range(clients)], spec)
    assert ("wide.a/left" in result.aggregate) is smaller
    assert ("tall/dense" in result.aggregate) is not smaller
    expected = aggregate_tensors(spec, PLAN, [str(i) for i in range(clients)], 1)
    assert {name: tuple(t.shape) for name, t in result.aggregate.items()} == {n: t.shape for n, t in expected.items()}
    sizes = sum(t.numel() * 4 for t in result.aggregate.values())
    assert sizes <= PLAN.dense_bytes()


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("bits", [32, 4])
def test_what_a_down_rank_leaves_out_is_sent_later(bits, rate):
    """Three changes of rank 1, and what was left out, have at most four directions: two go down, two are kept."""
    choices = {"up_rank": 1, "server_rate": rate, "global_momentum": 0, "bits": bits}
    spec, exact_spec = a_spec_of(down_rank=2, **choices), a_spec_of(down_rank=0, **choices)
    start = weights = exact = global_weights()
    residue: dict[str, torch.Tensor] = {}
    for number in range(2):
        clients = [a_client(name, spec, seed=17 * number + i) for i, name in enumerate("abc")]
        result = aggregate(clients, spec, weights, residue, number + 1)
        weights, residue = result.weights, result.residue
        exact = aggregate(clients, exact_spec, exact, None, number + 1).weights
    for target in PLAN.targets:
        moved = float((weights[target.name] - start[target.name]).norm())
        kept_back = kept_back_of(result, target, spec)
        assert kept_back.norm() > 1e-3 * moved
        lost = (weights[target.name] + kept_back - exact[target.name]).norm()
        assert lost < (1e-5 if bits == 32 else 0.2) * moved, target.name  # rounding at 4 bits fills more directions
    if bits == 32:
        assert all(torch.equal(weights[item.name], exact[item.name]) for item in PLAN.dense)


def test_of_what_is_left_out_the_leading_directions_are_kept():
    spec, exact_spec = a_spec_of(down_rank=2), a_spec_of()
    clients = [a_client(name, spec) for name in "abc"]
    result, exact = aggregate(clients, spec), aggregate(clients, exact_spec)
    for target in PLAN.targets:
        change = exact.weights[target.name] - global_weights()[target.name]
        lost = (result.weights[target.name] + kept_back_of(result, target, spec) - exact.weights[target.name]).norm()
        torch.testing.assert_close(lost, torch.linalg.svdvals(change)[4:].norm(), rtol=1e-3, atol=1e-5)


def kept_back_of(result, target: Target, spec) -> torch.Tensor:
    """What the server kept of a target's change, in the weight's own shape."""
    read = decoded(result.residue.__getitem__, residue_tensors(spec, PLAN))
    return orient_back(read(f"{target.name}/left") @ read(f"{target.name}/right"), target)


def test_small_groups_give_what_large_ones_give(monkeypatch):
    spec = a_spec_of()
    clients = [a_client(name, spec) for name in "abc"]
    together = aggregate(clients, spec)
    monkeypatch.setattr(server, "GROUP_BYTES", 1)
    assert all(len(group) == 1 for group in groups(PLAN, list("abc"), spec))
    apart = aggregate(clients, spec)
    for name, tensor in together.weights.items():
        torch.testing.assert_close(apart.weights[name], tensor)
    for name, tensor in together.state.items():
        if not name.endswith("/reference"):
            torch.testing.assert_close(apart.state[name], tensor, rtol=1e-4, atol=1e-5)


def test_groups_cover_each_tensor_once_and_are_alike():
    spec = a_spec_of()
    grouped = list(groups(PLAN, list("abc"), spec))
    assert sorted(item.name for group in grouped for item in group) == sorted(PLAN.weights())
    assert [[t.name for t in group] for group in grouped if isinstance(group[0], Target)] == [
        ["square"],
        ["tall", "wide.a", "wide.b"],
    ]


def test_sorted_lists_give_the_same_bits_however_updates_arrived():
    spec = a_spec_of()
    names = ["delta", "alpha", "charlie", "bravo"]
    results = [
        aggregate(sorted((a_client(n, spec) for n in order), key=lambda c: c.client), spec)
        for order in (names, names[::-1])
    ]
    for kind in ("weights", "aggregate", "state"):
        first, second = (getattr(result, kind) for result in results)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def total_norm(client: ClientTensors, spec) -> float:
    squared = sum(float(moved(client, target, spec).square().sum()) for target in PLAN.targets)
    return (squared + sum(float(client.read(f"{item.name}/delta").square().sum()) for item in PLAN.dense)) ** 0.5


def grown(client: ClientTensors, factor: float) -> ClientTensors:
    """The client with `factor` times the change."""

    def read(name: str) -> torch.Tensor:
        grows = name.rsplit("/", 1)[1].split(".")[0] in ("factor", "right", "delta", "lora_B")
        return client.read(name) * (factor if grows else 1)

    return replace(client, read=read)


@SENDING
@pytest.mark.parametrize("factor", [30.0, 0.1])
def test_a_change_far_longer_than_the_median_is_cut_to_the_multiple_asked_for(complement, factor):
    """Of matrices and head together; decay, and changes that are shorter, are left alone."""
    spec, plain = (a_spec_of(complement=complement, clip_norm=clip) for clip in (2.0, None))
    clients = [a_client(name, spec, decay=0.97) for name in "abc"]
    clients[1] = grown(clients[1], factor)
    norms = [total_norm(client, spec) for client in clients]
    most = 2.0 * sorted(norms)[1]
    assert (norms[1] > most) is (factor > 1)
    expected = [*clients]
    if factor > 1:
        expected[1] = grown(clients[1], most / norms[1])
    result, wanted = aggregate(clients, spec), aggregate(expected, plain)
    for name, tensor in wanted.weights.items():
        torch.testing.assert_close(result.weights[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["fedavg", "flora"])
def test_other_methods_that_sum_changes_clip_them_too(kind):
    method = {"kind": kind} if kind == "fedavg" else {"kind": kind, "rank": 3}
    spec, plain = (a_spec(method=method, server={"clip_norm": clip}) for clip in (2.0, None))
    clients = [a_client(name, spec) for name in "abc"]
    clients[1] = grown(clients[1], 30.0)

    def norm(client: ClientTensors) -> float:
        total = sum(float(client.read(f"{item.name}/delta").square().sum()) for item in PLAN.dense)
        for target in PLAN.targets:
            if kind == "fedavg":
                change = client.read(f"{target.name}/delta")
            else:
                change = spec.method.scale * client.read(f"{target.name}/lora_B") @ client.read(f"{target.name}/lora_A")
            total += float(change.square().sum())
        return total**0.5

    norms = sorted(norm(client) for client in clients)
    cut = grown(clients[1], 2.0 * norms[1] / norms[2])
    result, wanted = aggregate(clients, spec), aggregate([clients[0], cut, clients[2]], plain)
    for name, tensor in wanted.weights.items():
        torch.testing.assert_close(result.weights[name], tensor, rtol=1e-3, atol=1e-4)


# --- aligned states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["ajive", "average"])
@pytest.mark.parametrize("count", [1, 2, 5])
@SENDING
def test_a_single_client_or_equal_clients_keep_their_state(sync, count, complement):
    spec = a_spec_of(state_sync=sync, complement=complement)
    clients = [a_client(str(i), spec, num_examples=3 + i, seed=8) for i in range(count)]
    result = aggregate(clients, spec)
    state = moments(result.state)
    for target in PLAN.targets:
        sketch = sketch_of(clients[0], target, spec)
        reference = state[f"{target.name}/reference"]
        expected = carry(sketch, reference)
        torch.testing.assert_close(state[f"{target.name}/second_moment"], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state[f"{target.name}/residual"], sketch.residual)
        dense = moved(clients[0], target, spec)
        leading = torch.linalg.svd(dense, full_matrices=False)[0][:, : target.rank]
        assert torch.linalg.svdvals(leading.T @ reference.double()).min() > 1 - 1e-5
    if sync == "ajive":
        assert result.statistics["joint_rank"] == 3.0
        assert result.statistics["explained_share"] == pytest.approx(1.0)


@SENDING
def test_averaged_states_are_the_weighted_mean_in_the_reference_basis(complement):
    spec = a_spec_of(state_sync="average", state_scale="own", complement=complement)
    clients = [a_client("a", spec, 10), a_client("b", spec, 30)]
    state = moments(aggregate(clients, spec).state)
    for target in PLAN.targets:
        reference = state[f"{target.name}/reference"]
        each = [carry(sketch_of(c, target, spec), reference) for c in clients]
        expected = 0.25 * each[0] + 0.75 * each[1]
        torch.testing.assert_close(state[f"{target.name}/second_moment"], expected, rtol=1e-4, atol=1e-5)
        residuals = [client.read(f"{target.name}/residual").square() for client in clients]
        residual = 0.25 * residuals[0] + 0.75 * residuals[1]
        torch.testing.assert_close(state[f"{target.name}/residual"], residual)


def louder(client: ClientTensors, factor: float) -> ClientTensors:
    """The client with gradients `factor` times as large: Adam's steps are the same, its second moments are not."""

    def read(name: str) -> torch.Tensor:
        tensor = client.read(name)
        return tensor * factor if name.endswith(("/rms", "/residual")) else tensor

    return replace(client, read=read)


@pytest.mark.parametrize("sync", ["ajive", "average"])
@SENDING
def test_nobodys_large_gradients_outweigh_the_others_second_moments(sync, complement):
    """With `median`, the middle one of three clients sets the size. With `own`, the loud client sets it."""
    states = {}
    for scale in ("median", "own"):
        spec = a_spec_of(state_sync=sync, state_scale=scale, complement=complement)
        calm = [a_client(name, spec, seed=seed) for seed, name in enumerate("abc")]
        for factor in (1.0, 8.0, 64.0):
            states[scale, factor] = moments(aggregate([*calm[:2], louder(calm[2], factor)], spec).state)
    for target in PLAN.targets:
        for part in ("second_moment", "residual"):
            name = f"{target.name}/{part}"
            torch.testing.assert_close(states["median", 64.0][name], states["median", 8.0][name], rtol=1e-3, atol=1e-6)
            assert states["median", 64.0][name].sum() < 4 * states["median", 1.0][name].sum()
            assert states["own", 64.0][name].sum() > 100 * states["own", 1.0][name].sum()


def resembling(client: ClientTensors, share: float = 0.1) -> ClientTensors:
    """The client with second moments in a pattern of columns that all clients have, and a share of its own."""

    def read(name: str) -> torch.Tensor:
        tensor = client.read(name)
        if not name.endswith(("rms", "residual")):
            return tensor
        pattern = torch.rand(1, tensor.shape[1], generator=seeded(tensor.shape[1]))
        return tensor.mean(1, keepdim=True) * pattern + share * tensor

    return replace(client, read=read)


def test_aligned_states_are_the_weighted_joint_parts_above_a_floor(monkeypatch):
    """The joint rows are taken as given; the tests of the shared signal check them."""
    seen = []

    def spy(families, seed):
        seen.append((families, extract(families, seed)))
        return seen[-1][1]

    monkeypatch.setattr(method, "extract", spy)
    spec = a_spec_of(state_sync="ajive")
    clients = [resembling(a_client(name, spec, n)) for name, n in (("a", 10), ("b", 20), ("c", 10))]
    with one_thread():  # groups end in their order
        result = aggregate(clients, spec)
    assert result.statistics["joint_rank"] > 0
    names = [t.name for group in groups(PLAN, list("abc"), spec) for t in group if isinstance(t, Target)]
    pairs = [(family, signal, b) for family, signal in seen for b, family in enumerate(family)]
    assert len(names) == len(pairs)
    for name, (family, signal, index) in zip(names, pairs, strict=True):
        blocks, rows = family.numpy(), signal.basis[index].numpy()
        mean, joint = (np.average(x, axis=0, weights=[0.25, 0.5, 0.25]) for x in (blocks, blocks @ rows.T @ rows))
        expected = np.maximum(np.maximum(joint, 0.1 * mean), 1e-30)
        np.testing.assert_allclose(moments(result.state)[f"{name}/second_moment"], expected, rtol=1e-4, atol=1e-6)


def test_clients_that_agree_to_a_percent_start_near_their_mean():
    def a_percent_off(client: ClientTensors, seed: int) -> ClientTensors:
        def read(name: str) -> torch.Tensor:
            tensor = client.read(name)
            off = 1 + 0.01 * torch.randn(tensor.shape, generator=seeded(seed))
            return tensor * off.sqrt() if name.endswith("rms") else tensor

        return replace(client, read=read)

    states = []
    for sync in ("ajive", "average"):
        spec = a_spec_of(state_sync=sync)
        clients = [a_percent_off(a_client(name, spec, seed=8), i) for i, name in enumerate("abc")]
        states.append(moments(aggregate(clients, spec).state))
    for target in PLAN.targets:
        aligned, mean = (state[f"{target.name}/second_moment"] for state in states)
        assert 0.5 < float((aligned / mean).median()) < 2, target.name


@pytest.mark.parametrize("sync", ["ajive", "average"])
@settings(max_examples=10, deadline=None)
@given(scale=st.sampled_from([0.0, 1e-20, 1.0, 1e6]), zero_for=st.sampled_from(["", "b"]), seed=st.integers(0, 2**16))
def test_a_state_is_always_a_second_moment(sync, scale, zero_for, seed):
    spec = a_spec_of(state_sync=sync)

    loudness = {name: 0.0 if name == zero_for else scale**0.5 for name in "abc"}
    clients = [louder(a_client(name, spec, seed=seed + i), loudness[name]) for i, name in enumerate("abc")]
    state = aggregate(clients, spec).state
    assert specs_of(state) == state_tensors(spec, PLAN, 1)
    for name, tensor in moments(state).items():
        assert torch.isfinite(tensor).all()
        if name.endswith("second_moment"):
            assert (tensor > 0).all()


def test_reset_keeps_no_state():
    spec = a_spec_of(state_sync="reset")
    result = aggregate([a_client("a", spec)], spec)
    assert result.state == {}
    assert result.statistics == {}


# --- buffers --------------------------------------------------------------------------------------------------


STATISTICS = replace(PLAN, buffers=(Buffer("mean", (3,)), Buffer("variance", (3,), not_negative=True), Buffer("n", ())))


def with_buffers(spec, moves: dict[str, float], counts: dict[str, int]) -> tuple[dict, list[ClientTensors]]:
    """Old weights, and clients that moved every buffer by this much and nothing else."""
    weights = global_weights() | {"mean": torch.zeros(3), "variance": torch.ones(3), "n": torch.tensor(7.0)}
    clients = []
    for name, move in moves.items():
        tensors = {
            key: torch.zeros(t.shape, dtype=torch.uint8 if t.quantization else torch.float32)
            for key, t in update_tensors(spec, STATISTICS, name, 1).items()
        }
        tensors |= {f"{b.name}/delta": torch.full(b.shape, move) for b in STATISTICS.buffers}
        clients.append(ClientTensors(name, counts[name], 1.0, tensors.__getitem__))
    return weights, clients


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"method": {"kind": "flora", "rank": 3}},
        {"method": {"kind": "fedavg", "global_momentum": 0.5}},
        {"server": {"learning_rate": 0.1, "clip_norm": 1.0}},
    ],
)
def test_a_buffer_becomes_the_clients_mean_by_examples_whatever_scales_the_weights(more):
    spec = a_spec(**more)
    weights, clients = with_buffers(spec, {"a": 1.0, "b": 5.0}, {"a": 30, "b": 10})
    done = aggregated(STATISTICS, a_round(spec, clients, weights, number=2))
    assert torch.equal(done.weights["mean"], torch.full((3,), 2.0))
    assert torch.equal(done.weights["n"], torch.tensor(9.0))


def test_one_client_cannot_move_a_median_of_buffers_nor_a_variance_below_zero():
    spec = a_spec(server={"aggregation": "median"}, rounds={"min_clients": 3})
    moves = {"a": 1.0, "b": 2.0, "c": 1000.0}
    weights, clients = with_buffers(spec, moves, dict.fromkeys(moves, 10))
    assert torch.equal(aggregated(STATISTICS, a_round(spec, clients, weights)).weights["mean"], torch.full((3,), 2.0))
    spec = a_spec()
    weights, clients = with_buffers(spec, {"a": -9.0, "b": -9.0}, {"a": 1, "b": 1})
    done = aggregated(STATISTICS, a_round(spec, clients, weights))
    assert torch.equal(done.weights["variance"], torch.zeros(3))
    assert torch.equal(done.weights["mean"], torch.full((3,), -9.0))


def test_buffers_do_not_make_a_change_longer():
    spec = a_spec(server={"drop_norm": 2.0}, method={"kind": "fedavg"}, rounds={"min_clients": 3})
    moves = {"a": 1.0, "b": 1.0, "c": 1000.0}
    weights, clients = with_buffers(spec, moves, dict.fromkeys(moves, 10))
    for client in clients:
        client.read("head/delta").fill_(1.0)
    assert aggregated(STATISTICS, a_round(spec, clients, weights)).dropped == {}
