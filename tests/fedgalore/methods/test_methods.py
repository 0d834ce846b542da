"""Each method against a derivation of its own: torch's AdamW, dense products, states carried by hand.

Those with adapters are in `test_lora_methods`.
"""

from collections import deque
from itertools import pairwise

import pytest
import torch

from fedgalore.data.batches import batches
from fedgalore.deltas import orient_back
from fedgalore.maths.projector import orient
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.fedgalore.layout import SKETCH_OVERSAMPLING
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from fedgalore.simulation import Site, simulate
from fedgalore.spec.layout import aggregate_tensors, size_bytes, update_tensors, weights_tensors
from fedgalore.spec.registry import methods
from tests.builders import a_spec
from tests.fedgalore.conftest import sentences
from tests.fedgalore.rounds import (
    COUNTS,
    a_round,
    aggregated,
    an_update,
    clients_of,
    examples_of,
    updates_of,
    version_0,
)


def spec_of(method, **sections):
    defaults = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "head_learning_rate": 3e-2, "weight_decay": 0.1}
    sections["local"] = defaults | sections.get("local", {})
    return a_spec(model={"num_labels": 3}, method=method, **sections)


# --- fedavg --------------------------------------------------------------------------------------------------


def _adamw_steps(task, spec, client, round_number, share=1.0):
    """Trains as PyTorch's AdamW at `share` of the job's rates; stops after each step."""
    heads = [task.dense()[item.name] for item in task.plan.dense if item.head]
    others = [task.dense()[item.name] for item in task.plan.dense if not item.head]
    groups = [
        {"params": [weight for weight, _ in task.targets().values()] + others},
        {"params": heads, "lr": share * 3e-2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=share * 1e-2, weight_decay=spec.local.weight_decay)
    torch.manual_seed(derive_seed(spec.seed, "dropout", client, round_number))
    task.model.train()
    for chosen in batches(examples_of(spec, client), spec, client, round_number):
        optimizer.zero_grad()
        task.loss(task.collate(chosen))[0].backward()
        optimizer.step()
        yield


def test_fedavg_is_torch_adamw_on_each_client_and_their_mean(tiny_bert):
    spec = spec_of({"kind": "fedavg"})
    task, weights = version_0(spec, tiny_bert)
    updates = updates_of(task, spec, Start(weights))
    trained = {}
    for client in COUNTS:
        other = TaskModel.load(spec, tiny_bert)
        deque(_adamw_steps(other, spec, client, 1), maxlen=0)
        trained[client] = other.weights()
        for name, tensor in trained[client].items():
            assert torch.equal(updates[client].tensors[f"{name}/delta"], tensor - weights[name])
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights))
    for name, tensor in result.weights.items():
        mean = (6 * trained["a"][name].double() + 18 * trained["b"][name].double()) / 24
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


def test_server_rate_multiplies_the_change_of_fedavg(tiny_bert):
    full, half = spec_of({"kind": "fedavg"}), spec_of({"kind": "fedavg"}, server={"learning_rate": 0.5})
    task, weights = version_0(full, tiny_bert)
    clients = clients_of(updates_of(task, full, Start(weights)))
    results = [aggregated(task.plan, a_round(spec, clients, weights)).weights for spec in (full, half)]
    for name in task.plan.weights():
        torch.testing.assert_close(results[1][name], (weights[name] + results[0][name]) / 2, rtol=1e-4, atol=1e-6)


# --- momentum ------------------------------------------------------------------------------------------------


def test_fedavg_with_momentum_is_adamw_that_drifts_along_the_last_change(tiny_bert):
    """FedCM (arXiv 2106.10874): each client's step is (1 - a) its own and a the last aggregate's, spread over them."""
    matrices = ["query", "value", "dense.weight"]  # a key's bias has no gradient but rounding, which Adam blows up
    spec = spec_of({"kind": "fedavg", "global_momentum": 0.4, "target_modules": matrices}, local={"weight_decay": 0.0})
    task, weights = version_0(spec, tiny_bert)
    first = aggregated(task.plan, a_round(spec, clients_of(updates_of(task, spec, Start(weights))), weights))
    start = Start(first.weights)
    updates = updates_of(task, spec, start, 2)
    second = aggregated(task.plan, a_round(spec, clients_of(updates), first.weights, number=2))
    change = {name: first.weights[name] - weights[name] for name in weights}
    mean = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for client, count in COUNTS.items():
        other = TaskModel.load(spec, tiny_bert)
        other.load_weights(first.weights)
        parameters = {name: weight for name, (weight, _) in other.targets().items()} | other.dense()
        for _ in _adamw_steps(other, spec, client, 2, share=0.6):
            with torch.no_grad():
                for name, weight in parameters.items():
                    weight += 0.4 / 3 * change[name]
        for name, weight in parameters.items():
            mean[name] += count / 24 * weight.detach()
    for name in weights:
        tensor = second.weights[name]
        # Adam's first steps are +-lr whatever the gradient's size, so rounding in gradients near 0 shows a little
        torch.testing.assert_close(tensor, mean[name], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(tensor, first.weights[name] + 0.4 * change[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [{}, {"complement": 0}, {"basis": "shared"}], ids=str)
@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_momentum_adds_its_share_of_the_last_aggregate(method, rate, tiny_bert):
    """Momentum is added to what the clients changed: to the same updates, it adds a share of the last change.

    Where the way down is cut, what was kept back is counted too.
    """

    def with_kept_back(result, target):
        left, right = (result.residue.get(f"{target.name}/{side}") for side in ("left", "right"))
        return result.weights[target.name] + (orient_back(left @ right, target) if left is not None else 0)

    wire = {} if method else {"bits": 32, "up_rank": 4}  # what a cut leaves out of so few directions is kept whole
    both = [
        spec_of({"rank": 4, **method, "global_momentum": share}, wire=wire, server={"learning_rate": rate})
        for share in (0.3, 0)
    ]
    task, weights = version_0(both[0], tiny_bert)
    state, residue = {}, {}
    for number in (1, 2, 3):
        clients = clients_of(updates_of(task, both[0], Start(weights, state), number))
        with_it, without = (
            aggregated(task.plan, a_round(spec, clients, weights, state, residue, number)) for spec in both
        )
        for target in task.plan.targets:
            expected = with_kept_back(without, target) + 0.3 * weights.get(f"{target.name}/step", torch.tensor(0.0))
            torch.testing.assert_close(with_kept_back(with_it, target), expected, rtol=1e-4, atol=1e-5)
        for item in task.plan.dense:
            expected = without.weights[item.name] + 0.3 * weights.get(f"{item.name}/step", torch.tensor(0.0))
            torch.testing.assert_close(with_it.weights[item.name], expected, rtol=1e-4, atol=1e-6)
        weights, state, residue = with_it.weights, with_it.state, with_it.residue


# --- fedgalore: shared basis, own states, ranks ----------------------------------------------------------------


def mean_gradient(spec, folder, weights, client, number):
    """Of the round's batches, with the head trained beside it and the targets left alone."""
    task = TaskModel.load(spec, folder)
    task.load_weights(weights)
    optimizer = torch.optim.AdamW(task.dense().values(), lr=3e-2, weight_decay=0.1)
    torch.manual_seed(derive_seed(spec.seed, "dropout", client, number))
    task.model.train()
    total = {target.name: torch.zeros(target.d, target.k) for target in task.plan.targets}
    for chosen in batches(examples_of(spec, client), spec, client, number):
        task.model.zero_grad()
        task.loss(task.collate(chosen))[0].backward()
        optimizer.step()
        for target in task.plan.targets:
            total[target.name] += orient(task.targets()[target.name][0].grad) / spec.local.steps
    return total


@pytest.mark.slow
def test_a_shared_basis_is_the_range_of_the_mean_gradient(tiny_bert):
    spec = spec_of({"rank": 3, "basis": "shared", "state_sync": "reset"})
    task, weights = version_0(spec, tiny_bert)
    updates = updates_of(task, spec, Start(weights))
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights))
    gradients = {c: mean_gradient(spec, tiny_bert, weights, c, 1) for c in COUNTS}
    for target in task.plan.targets:
        assert torch.equal(result.weights[target.name], weights[target.name])  # nothing to train in yet
        generator = torch.Generator().manual_seed(derive_seed(spec.seed, "range sketch", 1, target.name))
        test_matrix = torch.randn(target.k, min(target.d, 3 + SKETCH_OVERSAMPLING), generator=generator)
        sketch = sum(n / 24 * gradients[c][target.name].double() @ test_matrix.double() for c, n in COUNTS.items())
        expected = torch.linalg.svd(sketch)[0][:, :3]
        basis = result.state[f"{target.name}/reference"].double()
        assert torch.linalg.svdvals(expected.T @ basis).min() > 1 - 1e-4
    second = updates_of(task, spec, Start(result.weights, result.state), 2)
    after = aggregated(task.plan, a_round(spec, clients_of(second), result.weights, result.state, number=2))
    for target in task.plan.targets:
        basis = result.state[f"{target.name}/reference"]
        for c in COUNTS:
            assert f"{target.name}/basis.0" not in second[c].tensors
        mean = sum(n / 24 * second[c].tensors[f"{target.name}/factor.0"].double() for c, n in COUNTS.items())
        decay = (1 - 1e-2 * 0.1) ** 3
        expected = decay * orient(weights[target.name]).double() + basis.double() @ mean
        torch.testing.assert_close(orient(after.weights[target.name]).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("basis", ["local", "shared"])
def test_states_of_a_single_client_come_back_to_it(basis, tiny_bert):
    """With one client and a full-rank basis nothing is lost on the way: V is what it was."""
    method = {"rank": 32, "basis": basis, "state_sync": "average"}
    spec = spec_of(method, wire={"bits": 32}, rounds={"min_clients": 1})
    task, weights = version_0(spec, tiny_bert)
    state = {}
    for number in (1, 2):
        update = an_update(task, spec, examples_of(spec, "a"), "a", number, Start(weights, state))
        result = aggregated(task.plan, a_round(spec, clients_of({"a": update}), weights, state, number=number))
        weights, state = result.weights, result.state
    for target in task.plan.targets:
        second_moment = update.tensors[f"{target.name}/rms"].float().square()
        trace = state[f"{target.name}/rms"].square().sum(0)  # a rotation keeps it
        torch.testing.assert_close(trace, second_moment.sum(0), rtol=1e-3, atol=1e-9)


def test_each_client_goes_on_from_the_state_it_kept(tiny_bert):
    spec = spec_of(
        {"rank": 3, "state_sync": "local", "prior_steps": None}, rounds={"count": 2}, evaluation={"every": 0}
    )
    task, weights = version_0(spec, tiny_bert)
    first = updates_of(task, spec, Start(weights))
    result = aggregated(task.plan, a_round(spec, clients_of(first), weights))
    middle = result.weights
    assert not any(name.endswith("/rms") for name in first["a"].tensors)
    kept = {c: first[c].kept for c in COUNTS}
    name = f"{task.plan.targets[0].name}/second_moment"
    assert not torch.equal(kept["a"][name], kept["b"][name])
    second = {c: an_update(task, spec, examples_of(spec, c), c, 2, Start(middle, {}, kept[c])) for c in COUNTS}
    residue = {n: t for n, t in kept["a"].items() if n.endswith("/residue")}
    forgetful = an_update(task, spec, examples_of(spec, "a"), "a", 2, Start(middle, {}, residue))
    assert any(not torch.equal(second["a"].tensors[n], t) for n, t in forgetful.tensors.items())
    this = a_round(spec, clients_of(second), middle, residue=result.residue, number=2)
    expected = aggregated(task.plan, this).weights
    simulated = simulate(spec, tiny_bert, [Site(c, examples_of(spec, c), sentences(3, 0)) for c in COUNTS]).weights
    assert all(torch.equal(simulated[n], expected[n]) for n in expected)


def test_clients_of_different_ranks_have_the_mean_of_their_changes(tiny_bert):
    method = {"rank": 4, "client_ranks": {"b": 7}, "state_sync": "average", "state_scale": "own"}
    spec = spec_of(method | {"complement": 0})
    task, weights = version_0(spec, tiny_bert)
    updates = updates_of(task, spec, Start(weights))
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights))
    decay = (1 - 1e-2 * 0.1) ** 3
    for target in task.plan.targets:
        moved = sum(
            n
            / 24
            * updates[c].tensors[f"{target.name}/basis.0"].double()
            @ updates[c].tensors[f"{target.name}/factor.0"].double()
            for c, n in COUNTS.items()
        )
        expected = decay * orient(weights[target.name]).double() + moved
        torch.testing.assert_close(orient(result.weights[target.name]).double(), expected, rtol=1e-5, atol=1e-6)
        reference = result.state[f"{target.name}/reference"]
        assert reference.shape == (target.d, 4)
        blocks = []
        for c in COUNTS:
            sent = {k: updates[c].tensors[f"{target.name}/{k}"] for k in ("basis.0", "rms", "residual")}
            squared = (reference.T @ sent["basis.0"]).square()
            blocks.append(
                squared @ sent["rms"].square() + (1 - squared.sum(1, keepdim=True)) * sent["residual"].square()
            )
        mean = (6 * blocks[0] + 18 * blocks[1]) / 24
        torch.testing.assert_close(result.state[f"{target.name}/rms"].square(), mean, rtol=1e-3, atol=1e-10)
    again = an_update(task, spec, examples_of(spec, "b"), "b", 2, Start(result.weights, result.state))
    assert again.tensors[f"{target.name}/rms"].shape[0] == 7


# --- simulation ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", methods())
def test_every_method_learns_repeats_and_counts_its_bytes(kind, tiny_bert):
    method = {"kind": kind} if methods()[kind].full_rank else {"kind": kind, "rank": 4}
    rate = {"fedavg": 3e-3, "fedgalore": 1e-2}.get(kind, 1e-2)
    local = {"steps": 6, "batch_size": 8, "learning_rate": rate, "head_learning_rate": 1e-2, "weight_decay": 0.0}
    spec = spec_of(method, local=local, rounds={"count": 12, "min_clients": 2}, evaluation={"every": 6})
    pairs = {"north": ("weather", "music"), "south": ("music", "food"), "west": ("food", "weather")}
    sites = [Site(name, sentences(40, i, classes)) for i, (name, classes) in enumerate(pairs.items())]
    held_out = {"all": sentences(40, 99)}
    result = simulate(spec, tiny_bert, sites, held_out=held_out)
    again = simulate(spec, tiny_bert, sites[::-1], held_out=held_out)
    assert result.rounds == again.rounds
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in result.weights.items())
    assert [record.number for record in result.rounds if record.held_out] == [1, 7, 13]
    assert result.rounds[-1].held_out["all"].metrics["accuracy"] > max(
        0.7, result.rounds[0].held_out["all"].metrics["accuracy"]
    )
    plan = result.task.plan
    for before, record in pairwise(result.rounds[:-1]):
        assert record.up_bytes == sum(size_bytes(update_tensors(spec, plan, c, record.number)) for c in record.training)
        cut = size_bytes(aggregate_tensors(spec, plan, sorted(before.training), before.number))
        whole = size_bytes(weights_tensors(spec, plan, record.model_version))
        assert len(record.training) * min(cut, whole) <= record.down_bytes <= len(record.training) * (whole + cut)
    assert (result.rounds[0].down_bytes, result.rounds[-1].up_bytes) == (0, 0)
