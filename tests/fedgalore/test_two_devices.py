"""A model over two devices takes the steps that it takes on one, and no operation mixes the two."""

import pytest
import torch

from fedgalore.evaluation import evaluate
from fedgalore.model.spread import Spread
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from tests.devices import FIRST, SECOND, several_devices
from tests.fedgalore.conftest import classifier, configure, language_model, questions, sentences, translator
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of, version_0

GALORE = {"kind": "fedgalore", "rank": 2}
FEW = ["attention.output.dense", "pooler.dense"]
CLIPPED = {"max_grad_norm": 1e9, "micro_batch_size": 1}
CASES = {
    "fedgalore": ("tiny_bert", classifier, {**GALORE, "state_sync": "ajive", "target_modules": FEW}, CLIPPED),
    "a state of its own": (
        "tiny_bert",
        classifier,
        {**GALORE, "state_sync": "local", "complement": 0, "target_modules": FEW},
        {},
    ),
    "a shared basis": ("tiny_gpt2", language_model, {**GALORE, "basis": "shared"}, {}),
    "bfloat16": (
        "tiny_gpt2",
        language_model,
        {**GALORE, "target_modules": ["c_attn"]},
        {"weights": "bfloat16", "precision": "bfloat16"},
    ),
    "two halves": ("tiny_t5", translator, {"kind": "fedavg"}, {}),
    "adapters": ("tiny_bert", classifier, {"kind": "fedit", "rank": 2}, {"activation_checkpointing": True}),
}
SLOW = ("a state of its own", "bfloat16", "two halves")


def two_rounds(task, spec, weights, examples):
    """What a client sends and keeps in two rounds, and how the model then does."""
    first = an_update(task, spec, examples, "a", 1, Start(weights))
    made = aggregated(task.plan, a_round(spec, clients_of({"a": first}), weights))
    second = an_update(task, spec, examples, "a", 2, Start(made.weights, made.state, first.kept))
    told = (
        first.tensors
        | first.kept
        | {f"{name} again": tensor for name, tensor in (second.tensors | second.kept).items()}
    )
    return told, first.metrics, second.metrics, evaluate(task, examples).metrics


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_rounds_on_two_devices_are_those_on_one(name, request):
    model, job, method, local = CASES[name]
    local = {"steps": 1, "batch_size": 2, "learning_rate": 1e-2} | local
    spec, folder = job(method=method, local=local), request.getfixturevalue(model)
    task, weights = version_0(spec, folder)
    task.narrow()
    examples = (sentences if job is classifier else questions)(4, 0)
    told, *others = two_rounds(task, spec, weights, examples)
    with several_devices():
        task = TaskModel.load(spec, folder, FIRST, spread=Spread({FIRST: 10**6, SECOND: 10**6}))
        assert {parameter.device for parameter in task.model.parameters()} == {FIRST, SECOND}
        task.narrow()
        told_of_two, *others_of_two = two_rounds(task, spec, weights, examples)
    differing = [key for key in told if not torch.equal(told[key], told_of_two[key])]
    if job is translator:  # the decoder's gradients at the encoder's outputs are summed in another order
        assert all(torch.allclose(told[key], told_of_two[key], atol=1e-3) for key in differing)
    else:
        assert (others_of_two, differing) == (others, [])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("kind", ["fedgalore", "fedit"])
def test_two_gpus_train_as_one_and_run_a_layer_again_with_its_own_dropout(kind, bert_copy):
    specs = {
        on: classifier(
            method={"kind": kind, "rank": 2}, local={"steps": 2, "batch_size": 2, "activation_checkpointing": on}
        )
        for on in (False, True)
    }
    examples, first, second = sentences(4, 0), torch.device("cuda:0"), torch.device("cuda:1")

    def losses(spread, spec):
        task = TaskModel.load(spec, bert_copy, first, spread=spread)
        return an_update(task, spec, examples, "a", 1, Start(version_0(spec, bert_copy)[1])).metrics["train_loss"]

    over = Spread({first: 10**6, second: 10**6})
    assert losses(over, specs[True]) == pytest.approx(losses(over, specs[False]), rel=1e-4)
    configure(bert_copy, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert losses(over, specs[False]) == pytest.approx(losses(None, specs[False]), rel=1e-4)
