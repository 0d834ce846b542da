"""Every task: its loss is transformers' own, and its predictions are what the loss averages."""

import pytest
import torch
import torch.nn.functional as F

from fedgalore.model.inputs import IGNORED
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import TASKS, check_examples, task_of
from tests.builders import a_spec
from tests.fedgalore.conftest import classifier
from tests.fedgalore.tasks import CASES


@pytest.fixture(scope="module", params=list(CASES))
def case(request, tmp_path_factory):
    """A task with its model in evaluation mode, and a batch."""
    it = CASES[request.param]
    spec = a_spec(model={"num_labels": None, **it.model})
    examples = it.make(5, 0, tmp_path_factory.mktemp("files") / "images")
    check_examples(examples, spec)
    task = TaskModel.load(spec, request.getfixturevalue(it.folder))
    task.model.eval()
    return task, task.collate(examples)


def test_every_task_has_a_case():
    assert {case.model.get("task", "sequence-classification") for case in CASES.values()} == set(TASKS)


def test_the_loss_is_that_of_transformers(case):
    task, batch = case
    loss, _, _ = task.loss(batch)
    torch.testing.assert_close(loss, task.model(**batch).loss)


def test_predictions_are_what_the_loss_averages(case):
    task, batch = case
    outputs = task.outputs(batch)
    seen = task.task.predictions(outputs, batch)
    assert (seen.scores.dtype, seen.scores.requires_grad) == (torch.float32, False)
    assert len(seen.scores) == len(seen.targets)
    assert not (seen.targets == IGNORED).any()
    count, right = task.task.hits(outputs, batch)
    assert count == len(seen.targets)
    expected = {
        "multi_label": F.binary_cross_entropy_with_logits,
        "regression": F.mse_loss,
    }.get(task.spec.model.problem_type, F.cross_entropy)(seen.scores, seen.targets)
    torch.testing.assert_close(expected, task.loss(batch)[0].detach())
    if task.spec.model.problem_type == "regression":
        assert right is None
    elif task.spec.model.problem_type == "multi_label":
        assert right == sum(torch.equal(s > 0, t > 0) for s, t in zip(seen.scores, seen.targets, strict=True))
    else:
        assert right == int((seen.scores.argmax(-1) == seen.targets).sum())
    if seen.lengths is not None:
        assert (len(seen.lengths), sum(seen.lengths)) == (5, count)


def test_a_job_for_another_split_of_the_same_model_has_its_own_task(tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    other = classifier(data={"max_length": 8})
    assert task.under(other).task.spec is other
    assert isinstance(task_of(other), type(task.task))


def test_a_download_says_what_its_labels_are(case, tmp_path):
    task, _ = case
    task.save(tmp_path / "saved")
    config = type(task.model).config_class.from_pretrained(tmp_path / "saved")
    problem = task.spec.model.problem_type
    if task.spec.model.writes:
        return
    if task.spec.model.task != "token-classification":
        assert config.problem_type == (problem if problem == "regression" else f"{problem}_classification")
    names = task.spec.model.label_names or [f"LABEL_{i}" for i in range(task.spec.model.labels)]
    assert config.id2label == dict(enumerate(names))
