"""A batch's gradient: the same in micro-batches as at once, and no longer than the job allows."""

import pytest
import torch

from fedgalore.data.batches import batches
from fedgalore.gradients import Gradients
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.halves import LocalTraining, Packed
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from fedgalore.training import TrainingError
from tests.fedgalore.conftest import (
    CLASSES,
    classifier,
    configure,
    language_model,
    questions,
    rated,
    sentences,
    several,
    tagged,
    tagger,
    translator,
)
from tests.fedgalore.rounds import an_update, version_0

WEIGHTS = [0.2, 1.0, 5.0]
METHODS = ({"kind": "fedgalore", "rank": 4}, {"kind": "fedavg"}, {"kind": "fedit", "rank": 4})


class Watching(LocalTraining):
    """Takes no steps: gradients stay where they are."""

    decay = 1.0

    def step(self):
        pass

    def packed(self, target):
        return Packed({})


def gradients_of(task, examples, **local):
    """A batch's gradients by name and what its passes told; the model says the same of a row whatever is beside it."""
    task.model.eval()
    task.zero_grad()
    twin = task.under(task.spec.model_copy(update={"local": task.spec.local.model_copy(update=local)}))
    passed = Gradients(twin, examples, Watching()).of(examples)
    return passed, {name: weight.grad.clone() for name, weight in task.trained().items() if weight.grad is not None}


CASES = {
    "classes": (classifier, sentences, "tiny_bert", {}),
    "weighted classes": (classifier, sentences, "tiny_bert", {"local": {"class_weights": WEIGHTS}}),
    "several labels": (
        classifier,
        several,
        "tiny_bert",
        {
            "model": {"source": "m", "num_labels": None, "label_names": list(CLASSES), "problem": "multi_label"},
            "local": {"class_weights": "balanced"},
        },
    ),
    "numbers": (classifier, rated, "tiny_bert", {"model": {"source": "m", "num_labels": 1}}),
    "tags of words": (tagger, tagged, "tiny_bert", {"local": {"class_weights": WEIGHTS}}),
    "written texts": (language_model, questions, "tiny_gpt2", {"local": {"precision": "bfloat16"}}),
    "written by a decoder": (translator, questions, "tiny_t5", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_give_the_gradient_of_the_batch(case, request):
    job, data, model, sections = CASES[case]
    task = TaskModel.load(job(**sections), request.getfixturevalue(model))
    examples = data(7, 3)
    if "completion" in examples[0]:  # a mean of means would be another number
        examples[0]["completion"] = "music food today rain"
    if "tokens" in examples[0]:
        examples[0] |= {"tokens": examples[0]["tokens"] * 2, "tags": examples[0]["tags"] * 2}
    whole, expected = gradients_of(task, examples)
    rough = task.spec.local.precision == "bfloat16"
    for size in (3, 1):
        passed, found = gradients_of(task, examples, micro_batch_size=size)
        assert (passed.predictions, passed.right, passed.learns) == (whole.predictions, whole.right, True)
        assert passed.loss == pytest.approx(whole.loss, rel=1e-2 if rough else 1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            scale = float(expected[name].abs().max())
            assert float((gradient - expected[name]).abs().max()) <= (0.05 if rough else 1e-4) * scale + 1e-7


@pytest.fixture
def still_bert(bert_copy):
    """Without dropout, which draws other numbers for other passes."""
    configure(bert_copy, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return bert_copy


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["kind"])
def test_a_round_ends_alike_in_micro_batches_and_with_a_norm_that_no_gradient_has(still_bert, method):
    """Steps behind the backward pass have the bits of those inside it."""
    local = {"steps": 3, "batch_size": 6, "learning_rate": 1e-2, "eps": 1e-3}
    task, weights = version_0(classifier(method=method, local=local), still_bert)

    def update(**more):
        return an_update(task, classifier(method=method, local=local | more), sentences(12, 1), "a", 1, Start(weights))

    whole, ended = update(), task.weights()
    long = update(max_grad_norm=1e9)
    assert all(torch.equal(long.tensors[name], tensor) for name, tensor in whole.tensors.items())
    small = update(micro_batch_size=4)
    assert small.metrics == pytest.approx(whole.metrics, rel=1e-4)
    for name, weight in task.weights().items():
        torch.testing.assert_close(weight, ended[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("most", [None, 1e9])
def test_a_target_steps_in_the_last_pass_unless_all_are_clipped_together(still_bert, most):
    local = {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "max_grad_norm": most}
    spec = classifier(local={**local, "learning_rate": 1e-2})
    task = TaskModel.load(spec, still_bert)
    targets = [weight for weight, _ in task.targets().values()]
    alive = []
    first = task.targets()["bert.encoder.layer.0.attention.self.query.weight"][0]  # of the first layer
    first.register_post_accumulate_grad_hook(lambda _: alive.append(sum(weight.grad is not None for weight in targets)))
    an_update(task, spec, sentences(8, 1), "a", 1, Start(task.weights()))
    before, last = alive[0::2], alive[1::2]
    assert min(before) > 1
    assert max(last) == 1 if most is None else min(last) == len(targets)
    assert all(weight.grad is None for weight in task.trained().values())


def test_clipped_gradients_are_those_of_torch(tiny_bert):
    local = {"steps": 4, "batch_size": 4, "learning_rate": 2e-3, "max_grad_norm": 0.3}
    spec = classifier(method={"kind": "fedavg"}, local=local)
    task, other = (TaskModel.load(spec, tiny_bert) for _ in range(2))
    an_update(task, spec, sentences(12, 1), "a", 1, Start(task.weights()))
    weights = list(other.trained().values())
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    torch.manual_seed(derive_seed(spec.seed, "dropout", "a", 1))
    other.model.train()
    for chosen in batches(sentences(12, 1), spec, "a", 1):
        optimizer.zero_grad()
        other.loss(other.collate(chosen))[0].backward()
        assert torch.nn.utils.clip_grad_norm_(weights, 0.3) > 0.3
        optimizer.step()
    for name, expected in other.weights().items():
        if not name.endswith("key.bias"):  # softmax takes it out: its gradient is rounding, which Adam makes a step of
            torch.testing.assert_close(task.weights()[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, 1e30])
def test_a_norm_that_is_no_number_ends_training_and_leaves_no_gradient(tiny_bert, bad):
    """Shortened by an infinite norm, finite gradients would be zeros."""
    spec = classifier(local={"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "max_grad_norm": 1.0})
    task = TaskModel.load(spec, tiny_bert)
    calls = []
    weight = task.model.bert.encoder.layer[0].intermediate.dense.weight
    weight.register_hook(lambda gradient: calls.append(0) or gradient * (bad if len(calls) == 2 else 1))
    with pytest.raises(TrainingError, match=r"became infinite or NaN at step 2 of round 1; lower local\.learning_rate"):
        an_update(task, spec, sentences(12, 1), "a", 1, Start(task.weights()))
    assert all(weight.grad is None for weight in task.trained().values())


def test_a_row_that_the_model_fails_on_is_named_in_micro_batches_too(tiny_bert):
    examples = [{**example, "row": row} for row, example in enumerate(sentences(4, 1), start=5)]
    spec = classifier(local={"steps": 1, "batch_size": 4, "micro_batch_size": 2})
    task = TaskModel.load(spec, tiny_bert)
    bad = task.collate(examples[2:3])["input_ids"]

    def fail(module, inputs):
        if any(torch.equal(row[: bad.shape[1]], bad[0]) for row in inputs[0]):
            raise IndexError("no such word")

    task.model.bert.embeddings.word_embeddings.register_forward_pre_hook(fail)
    with pytest.raises(TaskError, match=r"^row 7: the model fails on it \(IndexError: no such word\)"):
        an_update(task, spec, examples, "a", 1, Start(task.weights()))
    assert all(weight.grad is None for weight in task.trained().values())
