"""Layers that are computed again in the backward pass: to the same bits, and only while a model trains."""

import pytest
import torch

from fedgalore.evaluation import evaluate
from fedgalore.model import precision
from fedgalore.model.checkpointing import checkpointed
from fedgalore.model.inputs import TaskError
from fedgalore.model.probe import probe
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from tests.fedgalore.conftest import classifier, image_classifier, language_model, questions, sentences
from tests.fedgalore.rounds import an_update, version_0

CASES = {
    "fedgalore": ("tiny_bert", classifier, {"kind": "fedgalore", "rank": 4}, "float32", False),
    "adapters": ("tiny_bert", classifier, {"kind": "fedit", "rank": 4}, "float32", False),
    "a decoder": ("tiny_gpt2", language_model, {"kind": "fedavg"}, "bfloat16", True),
    "a decoder without bfloat16": ("tiny_gpt2", language_model, {"kind": "fedavg"}, "bfloat16", False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_without_and_layers_run_twice_in_training_alone(case, request, monkeypatch, tmp_path):
    model, job, method, passes, multiplies = CASES[case]
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: multiplies)
    local = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2, "precision": passes}
    plain, sparing = (job(method=method, local=local | {"activation_checkpointing": on}) for on in (False, True))
    task, weights = version_0(plain, request.getfixturevalue(model))
    examples = sentences(8, 1) if job is classifier else questions(8, 1)
    calls = []
    inner = next(module for name, module in task.model.named_modules() if name.endswith(("attention.self", "0.attn")))
    inner.register_forward_pre_hook(lambda *_: calls.append(0))
    updates = []
    for spec, times in ((plain, 1), (sparing, 2)):
        calls.clear()
        updates.append(an_update(task, spec, examples, "a", 1, Start(weights)))
        assert len(calls) == 2 * times
        calls.clear()
        task.model.train()
        task.loss(task.collate(examples))[0].backward()
        assert len(calls) == 1
        task.zero_grad()
    assert updates[0].metrics == updates[1].metrics
    assert all(torch.equal(updates[1].tensors[name], tensor) for name, tensor in updates[0].tensors.items())
    calls.clear()
    evaluate(task.under(sparing), examples[:2])
    assert len(calls) == 1
    task.save(tmp_path / "out")
    assert "checkpointing" not in (tmp_path / "out" / "config.json").read_text()


def test_a_loss_does_not_seem_to_depend_on_what_is_trained(tiny_bert):
    task = TaskModel.load(classifier(local={"activation_checkpointing": True}), tiny_bert)
    task.model.train()
    task.model.requires_grad_(False)
    with checkpointed(task):
        assert not task.loss(task.collate(sentences(2, 0)))[0].requires_grad


def test_a_model_that_cannot_is_refused_before_any_round(tiny_bert, tiny_levit):
    local = {"activation_checkpointing": True}
    task = TaskModel.load(classifier(local=local), tiny_bert)
    probe(task)
    task.model.supports_gradient_checkpointing = False
    with pytest.raises(TaskError, match=r"^local\.activation_checkpointing: BertForSequenceClassification of transf"):
        probe(task)
    with pytest.raises(
        TaskError, match=r"^local\.activation_checkpointing: each pass changes levit\..* change it twice"
    ):
        probe(TaskModel.load(image_classifier(local=local), tiny_levit))
