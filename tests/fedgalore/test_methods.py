"""Each method against a derivation of its own: plain PEFT, dense products, torch's AdamW, states carried by hand."""

import warnings
from itertools import pairwise

import peft
import pytest
import torch
import transformers

from fedgalore.batches import batches
from fedgalore.layout import OVERSAMPLING, size_bytes, update_tensors, weights_tensors
from fedgalore.methods import method_of
from fedgalore.methods.base import Start
from fedgalore.projector import orient
from fedgalore.seeding import derive_seed
from fedgalore.simulation import Site, simulate
from fedgalore.tasks import TaskModel
from fedgalore.training import TrainingStopped, evaluate, local_update
from tests.builders import a_spec
from tests.fedgalore.conftest import questions, sentences
from tests.fedgalore.rounds import a_round, aggregated, clients_of

LORA = ("fedit", "ffa_lora", "flora", "fedex_lora")
COUNTS = {"a": 6, "b": 18}


def spec_of(method, text=True, **sections):
    model = {"num_labels": 3} if text else {"task": "causal-lm", "num_labels": None}
    defaults = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "head_learning_rate": 3e-2, "weight_decay": 0.1}
    sections["local"] = defaults | sections.get("local", {})
    return a_spec(model=model, method=method, **sections)


def examples_of(spec, client):
    data = questions if spec.model.task == "causal-lm" else sentences
    return data(COUNTS[client], sum(client.encode()))


def folder_of(spec, tiny_bert, tiny_gpt2):
    return tiny_gpt2 if spec.model.task == "causal-lm" else tiny_bert


def beginning(spec, folder):
    task = TaskModel.load(spec, folder)
    return task, task.weights() | method_of(spec).carried(spec, task.plan)


def updates_of(task, spec, start, number=1):
    return {c: local_update(task, spec, examples_of(spec, c), c, number, start) for c in COUNTS}


def dense_product(target, tensors):
    """`B A` in the weight's own shape, float64."""
    product = tensors[f"{target.name}/lora_B"].double() @ tensors[f"{target.name}/lora_A"].double()
    return product.T if target.fan_in_fan_out else product


# --- LoRA against plain PEFT ---------------------------------------------------------------------------------


def plain_peft(spec, folder, base, adapter, client, number, trained=("lora_A", "lora_B")):
    """A client's round with nothing of `fedgalore.methods`: PEFT's model, torch's AdamW, the same batches.

    `base`: weights with the adapters taken out; `adapter`: their start. Returns PEFT's own state dict and the head.
    """
    task = TaskModel.load(spec, folder)
    task.load_weights(base)
    ranks = {t.name.removesuffix(".weight"): t.rank for t in task.plan.targets}
    config = peft.LoraConfig(
        r=next(iter(ranks.values())),
        lora_alpha=spec.method.scale * next(iter(ranks.values())),
        target_modules=list(ranks),
        fan_in_fan_out=any(t.fan_in_fan_out for t in task.plan.targets),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that PEFT uses
        model = peft.get_peft_model(task.model, config)
    for name, parameter in model.named_parameters():
        for target in task.plan.targets:
            module = f"base_model.model.{target.name.removesuffix('.weight')}."
            if name.startswith(module) and ".lora_" in name:
                part = "lora_A" if ".lora_A." in name else "lora_B"
                parameter.data.copy_(adapter[f"{target.name}/{part}"])
                parameter.requires_grad_(part in trained)
    heads = [p.requires_grad_(True) for n, p in model.named_parameters() if ".classifier." in n]
    adapters = [p for n, p in model.named_parameters() if ".lora_" in n and p.requires_grad]
    local = spec.local
    options = {"betas": local.betas, "eps": local.eps, "weight_decay": local.weight_decay}
    optimizers = [torch.optim.AdamW(adapters, lr=local.learning_rate, **options)]
    if heads:
        optimizers.append(torch.optim.AdamW(heads, lr=local.head_learning_rate, **options))
    torch.manual_seed(derive_seed(spec.seed, "dropout", client, number))
    model.train()
    for chosen in batches(examples_of(spec, client), spec, client, number):
        task.loss(task.collate(chosen))[0].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    state = {}
    for name, tensor in peft.get_peft_model_state_dict(model).items():
        path, part = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        state[f"{path}.weight/{part}"] = tensor.clone()
    head = {n.removeprefix("base_model.model."): p.detach() for n, p in model.named_parameters() if ".classifier." in n}
    return state, head


@pytest.mark.parametrize("text", [True, False], ids=["bert", "gpt2"])
@pytest.mark.parametrize("kind", LORA)
def test_two_rounds_are_those_of_plain_peft(kind, text, tiny_bert, tiny_gpt2):
    spec = spec_of({"kind": kind, "rank": 3, "scale": 1.5}, text)
    folder = folder_of(spec, tiny_bert, tiny_gpt2)
    task, weights = beginning(spec, folder)
    trained = ("lora_B",) if kind == "ffa_lora" else ("lora_A", "lora_B")
    frozen = {t.name: weights[t.name].double() for t in task.plan.targets}  # what the oracle's adapters sit on
    head = {item.name: weights[item.name] for item in task.plan.dense}
    mean = {n: t for n, t in weights.items() if "/lora_" in n}
    shares = {c: n / sum(COUNTS.values()) for c, n in COUNTS.items()}
    for number in (1, 2):
        updates = updates_of(task, spec, Start(weights), number)
        states, heads = {}, {}
        for client in COUNTS:
            adapter = dict(mean)
            if kind == "flora":  # what the client drew is its own affair; that it is fresh is tested below
                with method_of(spec).train(task, spec, client, number, Start(weights)) as training:
                    adapter = training.tensors()
                task.load_weights(weights)
            base = {n: t.float() for n, t in frozen.items()} | head
            states[client], heads[client] = plain_peft(spec, folder, base, adapter, client, number, trained)
            for name, tensor in updates[client].tensors.items():
                if "/lora_" in name:
                    torch.testing.assert_close(tensor, states[client][name], rtol=1e-3, atol=2e-4)
        result = aggregated(task.plan, a_round(spec, clients_of(updates), weights, number=number))
        weights = result.weights
        averaged = {n: sum(shares[c] * states[c][n].double() for c in COUNTS) for n in states["a"]}
        exact = {t.name: sum(shares[c] * 1.5 * dense_product(t, states[c]) for c in COUNTS) for t in task.plan.targets}
        for target in task.plan.targets:
            product = 1.5 * dense_product(target, averaged)
            if kind in ("fedit", "ffa_lora"):
                expected = frozen[target.name] + product
            else:
                expected = frozen[target.name] + exact[target.name]
                frozen[target.name] = expected - (product if kind == "fedex_lora" else 0)
            torch.testing.assert_close(weights[target.name].double(), expected, rtol=1e-3, atol=5e-4)
            if kind == "ffa_lora":  # with one A the mean of the products is exact
                torch.testing.assert_close(product, exact[target.name], rtol=1e-5, atol=1e-6)
        head = {n: sum(shares[c] * heads[c][n].double() for c in COUNTS).float() for n in head}
        for name, tensor in head.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-3)
        mean = {n: t.float() for n, t in averaged.items()} if kind != "flora" else {}


@pytest.mark.parametrize("text", [True, False], ids=["bert", "gpt2"])
@pytest.mark.parametrize("ranks", [{}, {"b": 6}], ids=["equal ranks", "ranks by client"])
def test_flora_moves_the_weights_by_the_exact_mean_of_products(text, ranks, tiny_bert, tiny_gpt2):
    spec = spec_of({"kind": "flora", "rank": 2, "client_ranks": ranks}, text)
    task, weights = beginning(spec, folder_of(spec, tiny_bert, tiny_gpt2))
    updates = updates_of(task, spec, Start(weights))
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights))
    for target in task.plan.targets:
        mean = sum(n / 24 * 2 * dense_product(target, updates[c].tensors) for c, n in COUNTS.items())
        assert mean.abs().max() > 1e-4
        torch.testing.assert_close(
            (result.weights[target.name] - weights[target.name]).double(), mean, atol=1e-6, rtol=1e-4
        )
        assert updates["b"].tensors[f"{target.name}/lora_A"].shape[0] == ranks.get("b", 2)


def test_fedex_folds_in_what_averaging_the_factors_leaves_out(tiny_bert):
    spec = spec_of({"kind": "fedex_lora", "rank": 2})
    task, weights = beginning(spec, tiny_bert)
    updates = updates_of(task, spec, Start(weights))
    fedit = spec_of({"kind": "fedit", "rank": 2})
    clients = clients_of(updates)
    exact, apart = (aggregated(task.plan, a_round(s, clients, weights)).weights for s in (spec, fedit))
    for target in task.plan.targets:
        products = sum(n / 24 * 2 * dense_product(target, updates[c].tensors) for c, n in COUNTS.items())
        expected = weights[target.name].double() + products  # B starts at zero: nothing to take out
        torch.testing.assert_close(exact[target.name].double(), expected, rtol=1e-5, atol=1e-6)
        for part in ("lora_A", "lora_B"):
            assert torch.equal(exact[f"{target.name}/{part}"], apart[f"{target.name}/{part}"])
        left_out = expected - apart[target.name].double()
        assert left_out.norm() > 1e-3 * products.norm()


def test_ffa_never_moves_its_seeded_factor(tiny_bert):
    spec = spec_of({"kind": "ffa_lora", "rank": 2}, rounds={"count": 3}, evaluation={"every": 0})
    task, start = beginning(spec, tiny_bert)
    result = simulate(spec, tiny_bert, [Site(c, examples_of(spec, c), sentences(3, 0)) for c in COUNTS])
    for target in task.plan.targets:
        name = f"{target.name}/lora_A"
        assert torch.equal(result.weights[name], start[name])
        bound = target.shape[1] ** -0.5  # as PEFT draws it
        assert 0.8 * bound < start[name].abs().max() <= bound
        assert result.weights[f"{target.name}/lora_B"].abs().max() > 0
    again = beginning(spec_of({"kind": "ffa_lora", "rank": 2}, seed=1), tiny_bert)[1]
    assert not torch.equal(again[name], start[name])


def test_flora_starts_each_round_with_new_adapters(tiny_bert):
    spec = spec_of({"kind": "flora", "rank": 2})
    task, weights = beginning(spec, tiny_bert)
    starts = []
    for client, number in (("a", 1), ("a", 1), ("a", 2), ("b", 1)):
        with method_of(spec).train(task, spec, client, number, Start(weights)) as training:
            starts.append(training.tensors())
    name = f"{task.plan.targets[0].name}/lora_A"
    assert torch.equal(starts[0][name], starts[1][name])
    assert not torch.equal(starts[0][name], starts[2][name])
    assert not torch.equal(starts[0][name], starts[3][name])
    assert all(not tensor.any() for start in starts for n, tensor in start.items() if n.endswith("lora_B"))


@pytest.mark.parametrize("kind", LORA)
def test_the_model_is_an_ordinary_one_after_a_round_however_it_ended(kind, tiny_bert, tmp_path):
    spec = spec_of({"kind": kind, "rank": 2})
    task, weights = beginning(spec, tiny_bert)
    names = [name for name, _ in task.model.named_parameters()]
    with pytest.raises(TrainingStopped):
        local_update(task, spec, sentences(6, 0), "a", 1, Start(weights), lambda *_: False)
    update = local_update(task, spec, sentences(6, 0), "a", 1, Start(weights))
    assert [name for name, _ in task.model.named_parameters()] == names
    assert {n for n, p in task.model.named_parameters() if p.requires_grad} == set(task.plan.weights())
    assert not hasattr(task.model, "peft_config")
    task.save(tmp_path / "out")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    expected = aggregated(task.plan, a_round(spec, clients_of({"a": update}), weights)).weights
    for name, tensor in loaded.state_dict().items():
        if name in task.plan.weights():  # one client's round is the federation's
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LORA)
def test_adapters_sit_in_the_weights_that_are_evaluated(kind, tiny_bert):
    """Evaluating the global weights gives what PEFT's model over the frozen ones gives."""
    spec = spec_of({"kind": kind, "rank": 2, "scale": 3.0})
    task, weights = beginning(spec, tiny_bert)
    weights = aggregated(task.plan, a_round(spec, clients_of(updates_of(task, spec, Start(weights))), weights)).weights
    task.load_weights(weights)
    merged = evaluate(task, spec, sentences(12, 5))
    with method_of(spec).train(task, spec, "a", 2, Start(weights)):
        apart = evaluate(task, spec, sentences(12, 5))
    assert apart["loss"] == pytest.approx(merged["loss"], rel=1e-5)


@pytest.mark.parametrize("kind", ["fedit", "flora", "fedavg"])
def test_server_rate_multiplies_the_change(kind, tiny_bert):
    method = {"kind": kind} if kind == "fedavg" else {"kind": kind, "rank": 2}
    full, half = spec_of(method), spec_of(method, server={"learning_rate": 0.5})
    task, weights = beginning(full, tiny_bert)
    clients = clients_of(updates_of(task, full, Start(weights)))
    results = [aggregated(task.plan, a_round(s, clients, weights)).weights for s in (full, half)]
    names = [n for n in weights if "/lora_" in n] if kind == "fedit" else list(task.plan.weights())
    for name in names:
        torch.testing.assert_close(results[1][name], (weights[name] + results[0][name]) / 2, rtol=1e-4, atol=1e-6)


def test_dropout_does_not_hang_on_the_method(tiny_bert):
    """A first step's loss is that of the global weights under the round's own masks."""
    losses = set()
    for kind in (*LORA, "fedavg", "fedgalore"):
        spec = spec_of({"kind": kind}, local={"steps": 1})
        task, weights = beginning(spec, tiny_bert)
        update = local_update(task, spec, sentences(8, 0), "a", 1, Start(weights))
        losses.add(round(update.metrics["last_loss"], 5))
    assert len(losses) == 1


# --- fedavg --------------------------------------------------------------------------------------------------


def test_fedavg_is_torch_adamw_on_each_client_and_their_mean(tiny_bert):
    spec = spec_of({"kind": "fedavg"})
    task, weights = beginning(spec, tiny_bert)
    updates = updates_of(task, spec, Start(weights))
    trained = {}
    for client in COUNTS:
        other = TaskModel.load(spec, tiny_bert)
        groups = [
            {"params": [weight for weight, _ in other.targets().values()]},
            {"params": list(other.dense().values()), "lr": 3e-2},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
        torch.manual_seed(derive_seed(spec.seed, "dropout", client, 1))
        other.model.train()
        for chosen in batches(examples_of(spec, client), spec, client, 1):
            optimizer.zero_grad()
            other.loss(other.collate(chosen))[0].backward()
            optimizer.step()
        trained[client] = other.weights()
        for name, tensor in trained[client].items():
            assert torch.equal(updates[client].tensors[f"{name}/delta"], tensor - weights[name])
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights))
    for name, tensor in result.weights.items():
        mean = (6 * trained["a"][name].double() + 18 * trained["b"][name].double()) / 24
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


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


def test_a_shared_basis_is_the_range_of_the_mean_gradient(tiny_bert):
    spec = spec_of({"rank": 3, "basis": "shared", "state_sync": "reset"})
    task, weights = beginning(spec, tiny_bert)
    updates = updates_of(task, spec, Start(weights))
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights))
    gradients = {c: mean_gradient(spec, tiny_bert, weights, c, 1) for c in COUNTS}
    for target in task.plan.targets:
        assert torch.equal(result.weights[target.name], weights[target.name])  # nothing to train in yet
        generator = torch.Generator().manual_seed(derive_seed(spec.seed, "range sketch", 1, target.name))
        test_matrix = torch.randn(target.k, min(target.d, 3 + OVERSAMPLING), generator=generator)
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
def test_states_of_one_client_come_back_to_it(basis, tiny_bert):
    """With one client and a full-rank basis nothing is lost on the way: V is what it was."""
    spec = spec_of({"rank": 32, "basis": basis, "state_sync": "average"}, rounds={"min_clients": 1})
    task, weights = beginning(spec, tiny_bert)
    state = {}
    for number in (1, 2):
        update = local_update(task, spec, examples_of(spec, "a"), "a", number, Start(weights, state))
        result = aggregated(task.plan, a_round(spec, clients_of({"a": update}), weights, state, number=number))
        weights, state = result.weights, result.state
    for target in task.plan.targets:
        own = update.tensors[f"{target.name}/second_moment"]
        trace = state[f"{target.name}/second_moment"].sum(0)  # a rotation keeps it
        torch.testing.assert_close(trace, own.sum(0), rtol=1e-3, atol=1e-9)


def test_each_client_goes_on_from_the_state_it_kept(tiny_bert):
    spec = spec_of(
        {"rank": 3, "state_sync": "local", "prior_steps": None}, rounds={"count": 2}, evaluation={"every": 0}
    )
    task, weights = beginning(spec, tiny_bert)
    first = updates_of(task, spec, Start(weights))
    middle = aggregated(task.plan, a_round(spec, clients_of(first), weights)).weights
    assert not any("second_moment" in name for name in first["a"].tensors)
    kept = {c: first[c].kept for c in COUNTS}
    name = f"{task.plan.targets[0].name}/second_moment"
    assert not torch.equal(kept["a"][name], kept["b"][name])
    second = {c: local_update(task, spec, examples_of(spec, c), c, 2, Start(middle, {}, kept[c])) for c in COUNTS}
    forgetful = local_update(task, spec, examples_of(spec, "a"), "a", 2, Start(middle))
    assert any(not torch.equal(second["a"].tensors[n], t) for n, t in forgetful.tensors.items())
    expected = aggregated(task.plan, a_round(spec, clients_of(second), middle, number=2)).weights
    found = simulate(spec, tiny_bert, [Site(c, examples_of(spec, c), sentences(3, 0)) for c in COUNTS]).weights
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_clients_of_different_ranks_have_the_mean_of_their_changes(tiny_bert):
    spec = spec_of({"rank": 4, "client_ranks": {"b": 7}, "state_sync": "average"})
    task, weights = beginning(spec, tiny_bert)
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
            sent = {k: updates[c].tensors[f"{target.name}/{k}"] for k in ("basis.0", "second_moment", "residual")}
            squared = (reference.T @ sent["basis.0"]).square()
            blocks.append(squared @ sent["second_moment"] + (1 - squared.sum(1, keepdim=True)) * sent["residual"])
        mean = (6 * blocks[0] + 18 * blocks[1]) / 24
        torch.testing.assert_close(result.state[f"{target.name}/second_moment"], mean, rtol=1e-3, atol=1e-10)
    again = local_update(task, spec, examples_of(spec, "b"), "b", 2, Start(result.weights, result.state))
    assert again.tensors[f"{target.name}/second_moment"].shape[0] == 7


# --- simulation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*LORA, "fedavg", "fedgalore"])
def test_every_method_learns_repeats_and_counts_its_bytes(kind, tiny_bert):
    method = {"kind": kind} if kind == "fedavg" else {"kind": kind, "rank": 4}
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
    assert result.rounds[-1].held_out["all"]["accuracy"] > max(0.7, result.rounds[0].held_out["all"]["accuracy"])
    plan = result.task.plan
    for before, record in pairwise(result.rounds[:-1]):
        assert record.up_bytes == sum(size_bytes(update_tensors(spec, plan, c, record.number)) for c in record.training)
        missed = set(record.training) - set(before.training)
        assert record.down_bytes >= len(missed) * size_bytes(weights_tensors(spec, plan))
    assert (result.rounds[0].down_bytes, result.rounds[-1].up_bytes) == (0, 0)
