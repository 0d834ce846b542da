"""The LoRA methods against plain PEFT on fresh models, and against products computed densely in float64."""

import warnings
from dataclasses import dataclass, replace

import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers

from fedgalore.data.batches import batches
from fedgalore.evaluation import evaluate
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.halves import client_half
from fedgalore.model.inputs import TaskError
from fedgalore.model.precision import passes_in
from fedgalore.model.task import TaskModel
from fedgalore.replay import apply_aggregate
from fedgalore.rounds import LocalRound, Start
from fedgalore.simulation import Site, simulate
from fedgalore.spec.layout import aggregate_tensors
from fedgalore.training import TrainingError, TrainingStopped
from tests.builders import a_spec
from tests.fedgalore.conftest import questions, sentences
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

CLIENTS = ("fedit", "ffa_lora", "flora")  # kinds whose client half is their own; the others share one of them
KINDS = (*CLIENTS, "fedex_lora", "frlora", "fedsvd")
TRAINS_B = ("ffa_lora", "fedsvd")
SHARES = {"a": 0.25, "b": 0.75}


def spec_of(kind, model="bert", server=1.0, **method):
    text = {"num_labels": 3} if model == "bert" else {"task": "causal-lm", "num_labels": None}
    return a_spec(
        model=text,
        method={"kind": kind, "rank": 3, "scale": 1.5} | method,
        # a large eps keeps rounding in gradients near 0 rounding in Adam's steps
        local={
            "steps": 3,
            "batch_size": 4,
            "learning_rate": 2e-2,
            "head_learning_rate": 3e-2,
            "weight_decay": 0.1,
            "eps": 1e-3,
        },
        server={"learning_rate": server},
        rounds={"count": 2, "min_clients": 2},
        evaluation={"every": 0},
    )


def in_bfloat16(spec):
    return spec.model_copy(update={"local": spec.local.model_copy(update={"precision": "bfloat16"})})


@pytest.fixture
def folders(tiny_bert, tiny_gpt2):
    return {"sequence-classification": tiny_bert, "causal-lm": tiny_gpt2}


@dataclass
class Federation:
    """The project's side: one task at a model version, as every client and the server see it."""

    task: TaskModel
    weights: dict
    number: int = 1

    @property
    def start(self):
        return Start(self.weights)

    def updates(self, clients=COUNTS):
        return updates_of(self.task, self.task.spec, self.start, self.number, clients)

    def round(self, updates):
        """The server's step; returns what it sends."""
        result = aggregated(
            self.task.plan,
            a_round(self.task.spec, clients_of(updates), self.weights, number=self.number),
        )
        self.weights, self.number = result.weights, self.number + 1
        return result.aggregate

    def start_of(self, client):
        """What a client trains from: the weights that stay still, and its adapter."""
        self.task.load_weights(self.weights)
        half = client_half(self.task.spec)
        with half.train(LocalRound(self.task, client, self.number, self.start)) as training:
            still = {target.name: self.task.weight(target.name).clone() for target in self.task.plan.targets}
            targets = self.task.plan.targets
            named = {t.name: training.packed(t).sent for t in targets}
            return still, {f"{name}/{part}": tensor for name, sent in named.items() for part, tensor in sent.items()}


def a_federation(spec, folders):
    return Federation(*version_0(spec, folders[spec.model.task]))


# --- the oracle: PEFT's own model, trained by a loop of its own ------------------------------------------------


def to_peft(tensors):
    """`x.weight/lora_A` as PEFT's state dict names it."""
    return {
        "base_model.model." + (n.replace(".weight/", ".") + ".weight" if "/" in n else n): t.float()
        for n, t in tensors.items()
    }


def from_peft(state):
    named = {}
    for name, tensor in state.items():
        module, part = name.removeprefix("base_model.model.").removesuffix(".weight"), ""
        if ".lora_" in module:
            module, part = module.rsplit(".", 1)
            named[f"{module}.weight/{part}"] = tensor.clone()
        else:
            named[name.removeprefix("base_model.model.")] = tensor.clone()
    return named


def peft_model(spec, folder, still, trained, rank=None):
    """PEFT around a fresh model. `still`: weights under the adapters; `trained`: adapters and head to start from."""
    text = spec.model.task == "sequence-classification"
    auto = transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForCausalLM
    attention = "eager" if spec.local.precision == "bfloat16" else "sdpa"
    model = auto.from_pretrained(folder, attn_implementation=attention, **({"num_labels": 3} if text else {}))
    assert not model.load_state_dict({n: t.float() for n, t in still.items()}, strict=False).unexpected_keys
    rank, scale = rank or spec.method.rank, spec.method.scale
    # PEFT takes the first pattern that fits, the project the longest
    ranks = dict(sorted(spec.method.rank_pattern.items(), key=lambda item: -len(item[0])))
    config = peft.LoraConfig(
        task_type="SEQ_CLS" if text else "CAUSAL_LM",  # the classifier is trained beside the adapters
        r=rank,
        lora_alpha=scale * rank,
        rank_pattern=ranks,
        alpha_pattern={module: scale * module_rank for module, module_rank in ranks.items()},
        target_modules="all-linear",
        fan_in_fan_out=not text,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that PEFT uses
        model = peft.get_peft_model(model, config)
    expected = set(peft.get_peft_model_state_dict(model))
    assert expected == set(to_peft(trained))
    peft.set_peft_model_state_dict(model, to_peft(trained))
    return model


def batch_of(tokenizer, examples):
    """Padded inputs and labels; of a language model's tokens only those of the answer have one."""
    if "label" in examples[0]:
        inputs = tokenizer([e["text"] for e in examples], padding=True, return_tensors="pt")
        return inputs, torch.tensor([e["label"] for e in examples])
    rows = [
        (tokenizer(e["prompt"]).input_ids, [*tokenizer(e["completion"]).input_ids, tokenizer.eos_token_id])
        for e in examples
    ]
    length = max(len(p) + len(a) for p, a in rows)
    short = [length - len(p) - len(a) for p, a in rows]
    ids = [p + a + [0] * s for (p, a), s in zip(rows, short, strict=True)]
    mask = [[1] * (length - s) + [0] * s for s in short]
    labels = [[-100] * len(p) + a + [-100] * s for (p, a), s in zip(rows, short, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, torch.tensor(labels)


def logits_of(spec, model, inputs, labels):
    """Predictions that count, and what they should be."""
    with passes_in(spec.local.precision, torch.device("cpu")):
        logits = model(**inputs).logits.float()
    if labels.dim() == 2:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return logits[labels != -100], labels[labels != -100]


def trained_by_peft(spec, folders, client, number, still, start, rank=None, along=None):
    """PEFT's model after one client's round. `along`: what the frozen weights move by meanwhile, by name."""
    folder, local = folders[spec.model.task], spec.local
    model = peft_model(spec, folder, still, start, rank)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    adapters, head = [], []
    for name, parameter in model.named_parameters():
        if spec.method.kind in TRAINS_B and ".lora_A." in name:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            (adapters if ".lora_" in name else head).append(parameter)
    frozen = {
        name: model.get_parameter(f"base_model.model.{name.removesuffix('.weight')}.base_layer.weight")
        for name in along or ()
    }
    share = 1 - spec.method.momentum if along else 1.0
    groups = [
        {"params": adapters, "lr": share * local.learning_rate},
        {"params": head, "lr": share * local.head_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=local.betas, eps=local.eps, weight_decay=local.weight_decay)
    torch.manual_seed(derive_seed(spec.seed, "dropout", client, number))
    model.train()
    for examples in batches(examples_of(spec, client), spec, client, number):
        optimizer.zero_grad()
        F.cross_entropy(*logits_of(spec, model, *batch_of(tokenizer, examples))).backward()
        optimizer.step()
        for name, weight in frozen.items():
            weight.data += along[name] / local.steps
    return model


def state_of(model):
    return from_peft(peft.get_peft_model_state_dict(model))


def product(plan, state):
    """`B A` by target, in the weight's own shape, float64."""
    products = {}
    for target in plan.targets:
        dense = state[f"{target.name}/lora_B"].double() @ state[f"{target.name}/lora_A"].double()
        products[target.name] = dense.T if target.fan_in_fan_out else dense
    return products


def mean(states):
    """By examples, float64."""
    return {name: sum(SHARES[c] * states[c][name].double() for c in COUNTS) for name in states["a"]}


def beginning(federation):
    """The oracle's float64 copy of version 0: weights under the adapters; adapters and head."""
    targets = {target.name for target in federation.task.plan.targets}
    doubles = {name: tensor.double() for name, tensor in federation.weights.items()}
    state = {name: tensor for name, tensor in doubles.items() if name not in targets}
    if f"{next(iter(targets))}/lora_A" not in state:  # drawn by each client
        return {name: doubles[name] for name in targets}, state
    held = product(federation.task.plan, state)
    return {name: doubles[name] - federation.task.spec.method.scale * held[name] for name in targets}, state


def check(actual, expected, names=None, start=None):
    """Equal to float32 rounding; and each has left `start`."""
    for name in names or expected:
        torch.testing.assert_close(actual[name].double(), expected[name].double(), rtol=1e-5, atol=2e-6, msg=name)
        if start is not None:
            assert (expected[name].double() - start[name].double()).abs().max() > 1e-3, name


# --- whole rounds ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fedit", "ffa_lora"])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("bert", {}),
        ("gpt2", {"scale": 0.6}),
        ("bert", {"rank_pattern": {"query": 5, "output.dense": 2, "attention.output.dense": 4}}),
        ("gpt2", {"server": 0.5}),
    ],
    ids=["bert", "gpt2", "ranks by module", "server rate"],
)
def test_factors_are_averaged_as_peft_state_dicts(kind, model, options, folders):
    spec = spec_of(kind, model, **options)
    federation = a_federation(spec, folders)
    plan = federation.task.plan
    assert {(t.shape[0] > t.shape[1]) - (t.shape[0] < t.shape[1]) for t in plan.targets} == {-1, 0, 1}
    assert {t.fan_in_fan_out for t in plan.targets} == {model == "gpt2"}
    still, state = beginning(federation)
    first = dict(federation.weights)
    for _ in (1, 2):
        number = federation.number
        models = {c: trained_by_peft(spec, folders, c, number, still, state) for c in COUNTS}
        averaged = mean({c: state_of(models[c]) for c in COUNTS})
        state = {n: t + spec.server.learning_rate * (averaged[n] - t) for n, t in state.items()}
        federation.round(federation.updates())
    merged = peft_model(spec, folders[spec.model.task], still, state).merge_and_unload().state_dict()
    check(federation.weights, merged, plan.weights(), first)
    check(federation.weights, state, [n for n in state if n.endswith("lora_B")], first)
    moved = [n for n in state if n.endswith("lora_A")]
    if kind == "fedit":
        check(federation.weights, state, moved, first)
    else:  # A never moves, so the mean of B A is exact
        assert all(torch.equal(federation.weights[n], first[n]) for n in moved)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_a_job_starts_with_adapters_drawn_as_peft_draws_them(model, folders):
    spec = spec_of("fedit", model)
    federation = a_federation(spec, folders)
    other = a_federation(spec.model_copy(update={"seed": 1}), folders)
    for target in federation.task.plan.targets:
        first, last = (federation.weights[f"{target.name}/{part}"] for part in ("lora_A", "lora_B"))
        assert not last.any()
        bound = first.shape[1] ** -0.5
        assert 0.8 * bound < first.abs().max() <= bound
        assert not torch.equal(first, other.weights[f"{target.name}/lora_A"])


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_ffa_moves_the_weights_by_the_exact_mean_of_products(model, folders):
    federation = a_federation(spec_of("ffa_lora", model), folders)
    plan, first = federation.task.plan, federation.weights
    updates = federation.updates()
    assert not any(name.endswith("lora_A") for update in updates.values() for name in update.tensors)
    states = {c: first | updates[c].tensors for c in COUNTS}  # each client's B beside the A of all
    moved = mean({c: product(plan, states[c]) for c in COUNTS})
    federation.round(updates)
    exact = {name: first[name].double() + 1.5 * change for name, change in moved.items()}
    check(federation.weights, exact, start=first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "ranks", "server"),
    [("bert", {}, 1.0), ("gpt2", {}, 0.5), ("bert", {"b": 6}, 0.5), ("gpt2", {"b": 6}, 1.0)],
    ids=["bert", "gpt2, server rate", "bert, ranks by client, server rate", "gpt2, ranks by client"],
)
def test_flora_folds_in_the_exact_mean_of_products_and_starts_anew(model, ranks, server, folders):
    spec = spec_of("flora", model, server, client_ranks=ranks)
    federation = a_federation(spec, folders)
    plan = federation.task.plan
    still, head = beginning(federation)
    first = dict(federation.weights)
    drawn = []
    for _ in (1, 2):
        products, heads = {}, {}
        updates = federation.updates()
        for c in COUNTS:
            _, adapter = federation.start_of(c)
            assert not any(tensor.any() for name, tensor in adapter.items() if name.endswith("lora_B"))
            drawn.append(adapter[f"{plan.targets[0].name}/lora_A"])
            rank = ranks.get(c, 3)
            assert len(drawn[-1]) == rank
            state = state_of(trained_by_peft(spec, folders, c, federation.number, still, adapter | head, rank))
            check(updates[c].tensors, state, adapter)
            products[c], heads[c] = product(plan, state), {name: state[name] for name in head}
        still = {n: t + server * 1.5 * mean(products)[n] for n, t in still.items()}
        head = {n: t + server * (mean(heads)[n] - t) for n, t in head.items()}
        federation.round(updates)
        check(federation.weights, still | head, start=first)
    assert len({tensor[0].sum().item() for tensor in drawn}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_fedex_keeps_the_mean_of_products_and_carries_the_mean_factors(model, folders):
    spec = spec_of("fedex_lora", model)
    federation = a_federation(spec, folders)
    plan = federation.task.plan
    still, state = beginning(federation)
    first = dict(federation.weights)
    for _ in (1, 2):
        models = {c: trained_by_peft(spec, folders, c, federation.number, still, state) for c in COUNTS}
        states = {c: state_of(models[c]) for c in COUNTS}
        products = mean({c: product(plan, states[c]) for c in COUNTS})
        effective = {n: t + 1.5 * products[n] for n, t in still.items()}
        state = mean(states)
        still = {n: t - 1.5 * product(plan, state)[n] for n, t in effective.items()}
        federation.round(federation.updates())
        check(federation.weights, effective | state, start=first)
        frozen, adapter = federation.start_of("a")
        check(frozen, still)
        assert all(torch.equal(tensor, federation.weights[name]) for name, tensor in adapter.items())
    left_out = max((still[n] - first[n]).norm() / (effective[n] - first[n]).norm() for n in still)
    assert left_out > 0.1  # what averaging the factors alone would have lost


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_fedsvd_keeps_the_exact_mean_product_in_factors_whose_a_is_orthonormal(model, folders):
    federation = a_federation(spec_of("fedsvd", model, scale=1.0), folders)
    plan, first = federation.task.plan, federation.weights
    still, _ = beginning(federation)
    for _ in (1, 2):
        before, updates = federation.weights, federation.updates()
        assert not any(name.endswith("lora_A") for update in updates.values() for name in update.tensors)
        products = mean({c: product(plan, before | updates[c].tensors) for c in COUNTS})
        federation.round(updates)
        check(federation.weights, {name: still[name] + products[name] for name in still}, start=first)
        check(product(plan, federation.weights), products)
        for target in plan.targets:
            rows, columns = (federation.weights[f"{target.name}/{part}"] for part in ("lora_A", "lora_B"))
            torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
            assert (rows - before[f"{target.name}/lora_A"]).abs().max() > 1e-3
            strengths = columns.T @ columns  # the squared singular values
            torch.testing.assert_close(strengths, torch.diag(strengths.diagonal().sort(descending=True).values))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "server"), [("bert", 1.0), ("gpt2", 0.5)])
def test_frlora_starts_each_round_from_the_principal_factors_of_the_first_weights(model, server, folders):
    spec = spec_of("frlora", model, server)
    federation = a_federation(spec, folders)
    plan, first = federation.task.plan, dict(federation.weights)
    still, state = beginning(federation)
    start = {name: tensor for name, tensor in state.items() if "/lora_" in name}
    for target in plan.targets:  # what the adapter leaves of the weight is what its other singular triples make
        values = torch.linalg.svdvals(first[target.name].double())
        rest = torch.linalg.svdvals(still[target.name])
        torch.testing.assert_close(rest[: len(values) - 3], values[3:], rtol=1e-5, atol=1e-6)
        assert first[f"{target.name}/lora_A"].norm(dim=1).allclose(first[f"{target.name}/lora_B"].norm(dim=0))
    for _ in (1, 2):
        frozen, adapter = federation.start_of("a")
        check(frozen, still)
        check(adapter, start)
        models = {c: trained_by_peft(spec, folders, c, federation.number, still, state) for c in COUNTS}
        averaged = mean({c: state_of(models[c]) for c in COUNTS})
        means = {n: t + server * (averaged[n] - t) for n, t in state.items()}
        effective = {n: t + 1.5 * product(plan, means)[n] for n, t in still.items()}
        state = means | start
        still = {n: t - 1.5 * product(plan, start)[n] for n, t in effective.items()}
        federation.round(federation.updates())
        check(federation.weights, effective | {n: t for n, t in state.items() if n not in start}, start=first)
        assert all(torch.equal(federation.weights[name], first[name]) for name in start)


@pytest.mark.slow
def test_flora_with_momentum_is_peft_whose_frozen_weights_drift_along_the_last_step(folders):
    """FedCM (arXiv 2106.10874): a share of the last step beside what the clients' products come to."""
    spec = spec_of("flora", "gpt2", global_momentum=0.4)
    federation = a_federation(spec, folders)
    first = dict(federation.weights)
    federation.round(federation.updates())
    before = {name: federation.weights[name].double() for name in first}
    step = {name: 0.4 * (before[name] - first[name].double()) for name in before}
    ends = {}
    for c in COUNTS:
        model = trained_by_peft(spec, folders, c, 2, before, federation.start_of(c)[1], along=step)
        ends[c] = model.merge_and_unload().state_dict()
    federation.round(federation.updates())
    check(federation.weights, mean({c: {n: ends[c][n] for n in before} for c in COUNTS}), start=before)


# --- one client --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_a_federation_of_a_single_client_is_plain_peft(kind, model, folders):
    spec = spec_of(kind, model)
    federation = a_federation(spec, folders)
    first = dict(federation.weights)
    still, state = beginning(federation)
    if kind == "flora":
        state |= federation.start_of("a")[1]
    oracle = trained_by_peft(spec, folders, "a", 1, still, state)
    updates = federation.updates(["a"])
    trained = federation.task.weights()
    federation.round(updates)

    held_out = (questions if model == "gpt2" else sentences)(12, 5)
    oracle.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[spec.model.task])
    with torch.no_grad():
        logits, labels = logits_of(spec, oracle, *batch_of(tokenizer, held_out))
    federation.task.load_weights(federation.weights)
    metrics = evaluate(federation.task.under(spec), held_out).metrics
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["accuracy"] == (logits.argmax(-1) == labels).double().mean().item()

    merged = oracle.merge_and_unload().state_dict()
    check(trained, merged, trained)
    check(federation.weights, merged, trained, first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLIENTS)
def test_bfloat16_is_that_of_plain_peft(kind, folders):
    exact = spec_of(kind)
    spec = in_bfloat16(exact)
    federation = a_federation(spec, folders)
    still, state = beginning(federation)
    if kind == "flora":
        state |= federation.start_of("a")[1]
    update = federation.updates(["a"])["a"].tensors
    expected = state_of(trained_by_peft(spec, folders, "a", 1, still, state))
    adapters = [name for name in update if "/lora_" in name]
    check(update, expected, adapters)
    other = state_of(trained_by_peft(exact, folders, "a", 1, still, state))
    assert max((other[name] - update[name]).abs().max() for name in adapters) > 1e-4


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_with_a_single_client_fedex_is_fedit(model, folders):
    federations = [a_federation(spec_of(kind, model), folders) for kind in ("fedit", "fedex_lora")]
    for _ in (1, 2):
        for federation in federations:
            federation.round(federation.updates(["a"]))
    check(federations[0].weights, federations[1].weights)


# --- the model between rounds ------------------------------------------------------------------------------------


def looks_of(model):
    """Everything about a model but the weights' values."""
    modules = {name: (type(module), frozenset(vars(module))) for name, module in model.named_modules()}
    return modules, {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}


def finished(task, start):
    an_update(task, task.spec, examples_of(task.spec, "a"), "a", 1, start)


def stopped(task, start):
    with pytest.raises(TrainingStopped):
        an_update(task, task.spec, examples_of(task.spec, "a"), "a", 1, start, lambda step, _: step < 2)


def diverged(task, start):
    broken = {name: tensor * float("nan") for name, tensor in start.weights.items() if "classifier" in name}
    with pytest.raises(
        TrainingError, match="nan at step 1 of round 1, and the weights .* before any training; look at model.source"
    ):
        finished(task, replace(start, weights={**start.weights, **broken}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("ending", [finished, stopped, diverged])
def test_a_round_leaves_an_ordinary_model(kind, ending, folders, tmp_path):
    federation = a_federation(spec_of(kind), folders)
    task, start = federation.task, Start(federation.weights)
    looks = looks_of(task.model)
    ending(task, start)
    assert looks_of(task.model) == looks
    assert not any(isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer) for module in task.model.modules())
    held = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    task.save(tmp_path / "out")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict()
    assert loaded.keys() == held.keys()
    torch.testing.assert_close(loaded, held, rtol=0, atol=0, equal_nan=True)
    again = federation.updates(["b"])["b"].tensors
    fresh = a_federation(spec_of(kind), folders).updates(["b"])["b"].tensors
    assert all(torch.equal(again[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("kind", CLIENTS)
def test_gradients_are_computed_only_of_what_is_trained(kind, folders):
    federation = a_federation(spec_of(kind), folders)
    task, spec = federation.task, federation.task.spec
    with client_half(spec).train(LocalRound(task, "a", 1, Start(federation.weights))):
        wanted = {name for name, parameter in task.model.named_parameters() if parameter.requires_grad}
    parts = ("lora_B",) if kind == "ffa_lora" else ("lora_A", "lora_B")
    modules = [target.name.removesuffix(".weight") for target in task.plan.targets]
    assert wanted == {f"{m}.{part}.default.weight" for m in modules for part in parts} | set(task.dense())


@pytest.mark.parametrize("kind", ["fedit", "ffa_lora"])
@pytest.mark.parametrize("change", ["left out", "of another rank"])
def test_a_version_without_its_adapters_is_refused(kind, change, folders):
    federation = a_federation(spec_of(kind), folders)
    task, looks = federation.task, looks_of(federation.task.model)
    name = f"{task.plan.targets[3].name}/lora_B"
    weights = {n: t for n, t in federation.weights.items() if n != name}
    if change == "of another rank":
        weights[name] = torch.zeros(32, 7)
    with pytest.raises(TaskError, match=rf"weights: {name} is missing or not of shape \(32, 3\).*ServerHalf\.carried"):
        finished(task, Start(weights))
    assert looks_of(task.model) == looks


def test_no_method_draws_what_dropout_would_have_drawn(folders):
    """Step after step the masks are those of a round without adapters."""
    without = [a_spec(method={"kind": kind}).method for kind in ("fedavg", "fedgalore")]
    specs = [spec_of("fedit").model_copy(update={"method": method}) for method in without]
    ends, losses = [], []
    for spec in (*specs, *map(spec_of, CLIENTS)):
        federation = a_federation(spec, folders)
        assert federation.task.model.config.hidden_dropout_prob > 0
        seen = []
        an_update(
            federation.task,
            spec,
            examples_of(spec, "a"),
            "a",
            1,
            Start(federation.weights),
            lambda _, loss, seen=seen: seen.append(loss) or True,
        )
        ends.append(torch.get_rng_state())
        losses.append(seen[0])
    assert all(torch.equal(end, ends[0]) for end in ends)
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)


# --- server and clients ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "server"),
    [
        *((kind, "bert", 1.0) for kind in KINDS),
        *((kind, "gpt2", 1.0 if kind == "fedex_lora" else 0.5) for kind in KINDS if kind != "fedit"),
    ],
)
def test_a_client_gets_the_servers_bits_from_the_aggregate_file(kind, model, server, folders, tmp_path):
    """Over two rounds it only ever sees what goes down, and ends with the simulation's bits."""
    spec = spec_of(kind, model, server)
    federation = a_federation(spec, folders)
    plan, held = federation.task.plan, dict(federation.weights)
    for number in (1, 2):
        updates = federation.updates()
        sent = federation.round(dict(reversed(updates.items())))
        assert {n: tuple(t.shape) for n, t in sent.items()} == {
            n: t.shape for n, t in aggregate_tensors(spec, plan, sorted(COUNTS), number).items()
        }
        file = tmp_path / f"{number}.safetensors"
        safetensors.torch.save_file(sent, file)
        held = apply_aggregate(held, safetensors.torch.load_file(file), 1.0, plan, spec)
        assert held.keys() == federation.weights.keys()
        assert all(torch.equal(held[name], tensor) for name, tensor in federation.weights.items())
    sites = [Site(c, examples_of(spec, c)) for c in sorted(COUNTS, reverse=True)]
    simulated = simulate(spec, folders[spec.model.task], sites).weights
    assert simulated.keys() == held.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in simulated.items())


def test_layers_that_peft_takes_for_experts_are_named(tiny_gpt2, tmp_path):
    config = transformers.DeepseekV3Config(
        vocab_size=99,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        n_routed_experts=2,
        num_experts_per_tok=1,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=4,
        kv_lora_rank=4,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
    )
    transformers.DeepseekV3ForCausalLM(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path)
    named = (["gate_proj", "up_proj", "down_proj"], r"no adapter around model.layers.0.mlp.\w+ of this")
    for modules, words in (named, (["gate_proj"], r"method.target_modules: PEFT .* without also targeting up_proj")):
        spec = spec_of("fedit", "gpt2", rank=2, target_modules=modules)
        task = TaskModel.load(spec, tmp_path)
        before = [(name, parameter.requires_grad) for name, parameter in task.model.named_parameters()]
        with pytest.raises(TaskError, match=words):
            client_half(spec).check(task)
        assert [(name, parameter.requires_grad) for name, parameter in task.model.named_parameters()] == before
        assert not any("lora" in type(module).__module__ for module in task.model.modules())
