"""Every task: its loss is transformers' own, and its predictions are what the loss averages."""

import pytest
import torch
import torch.nn.functional as F

from fedgalore.model.inputs import IGNORED
from fedgalore.model.probe import probe
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import TASKS, check_examples, task_of
from tests.builders import a_spec
from tests.fedgalore.conftest import classifier, language_model, translator
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


@pytest.mark.parametrize(("job", "source"), [(language_model, "tiny_gpt2"), (translator, "tiny_t5")])
def test_a_template_makes_the_batch_of_its_prompts_and_completions(job, source, request):
    folder = request.getfixturevalue(source)
    template = {"prompt": "some {q} {hint} {prompt}", "completion": "the {prompt}"}
    plain, filled = (TaskModel.load(job(data={"name": "d", "template": made}), folder) for made in (None, template))
    probe(filled)
    chat = [{"role": "user", "content": "rain"}, {"role": "assistant", "content": "food"}]
    row = {"row": 3, "columns": {"q": "rain", "hint": "", "more": "x"}, "prompt": "sun", "completion": "wind"}
    row |= {"messages": chat} if job is language_model else {}
    expected = {"row": 3, "prompt": "some rain  sun", "completion": "the sun"}
    torch.testing.assert_close(filled.collate([row]), plain.collate([expected]), rtol=0, atol=0)
    if job is language_model:
        whole = TaskModel.load(job(data={"name": "d", "template": {"completion": "{q} {more}"}}), folder)
        probe(whole)
        check_examples([row | {"prompt": ""}], whole.spec)
        assert int((whole.collate([row])["labels"] != IGNORED).sum()) == 3  # two words and the end
    assert (filled.task.question(row), filled.task.answer(row)) == ("some rain  sun", "the sun")
