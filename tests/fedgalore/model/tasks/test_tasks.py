"""Every task: its loss is transformers' own, and its predictions are what the loss averages."""

import pytest
import torch

from fedgalore.model.inputs import IGNORED
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import TASKS, task_of
from tests.fedgalore.conftest import classifier, image_classifier, language_model, questions, sentences, squares


@pytest.fixture(params=sorted(TASKS))
def case(request, tmp_path):
    """A task with its model in evaluation mode, and a batch."""
    spec, folder, examples = {
        "sequence-classification": lambda: (classifier(), "tiny_bert", sentences(5, 0)),
        "image-classification": lambda: (image_classifier(), "tiny_vit", squares(tmp_path, 5, 0)),
        "causal-lm": lambda: (language_model(), "tiny_gpt2", questions(5, 0)),
    }[request.param]()
    task = TaskModel.load(spec, request.getfixturevalue(folder))
    task.model.eval()
    return task, task.collate(examples)


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
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(seen.scores, seen.targets), task.loss(batch)[0].detach()
    )
    right = int((seen.scores.argmax(-1) == seen.targets).sum())
    assert task.task.hits(outputs, batch) == (len(seen.targets), right)
    if seen.lengths is not None:
        assert (len(seen.lengths), sum(seen.lengths)) == (5, len(seen.targets))


def test_a_job_for_another_split_of_the_same_model_has_its_own_task(tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    other = classifier(data={"max_length": 8})
    assert task.under(other).task.spec is other
    assert isinstance(task_of(other), type(task.task))
