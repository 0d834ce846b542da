"""What sites of each task count, pooled, against one test set of all their examples."""

import pytest
import torch
from scipy import stats
from sklearn import metrics as judge

from fedgalore.evaluation import evaluate
from fedgalore.measures.values import measured, pool
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.spec.metrics import fitting
from tests.fedgalore.conftest import (
    CLASSES,
    classifier,
    language_model,
    questions,
    rated,
    sentences,
    several,
    tagged,
    tagger,
    translator,
)

SIZES = (23, 9, 1)
TASKS = {
    "classes": (classifier, {}, sentences),
    "labels": (
        classifier,
        {"model": {"source": "m", "num_labels": None, "label_names": list(CLASSES), "problem": "multi_label"}},
        several,
    ),
    "numbers": (classifier, {"model": {"source": "m", "num_labels": 1}}, rated),
    "entities": (tagger, {}, tagged),
    "a decoder": (language_model, {}, questions),
    "an encoder and decoder": (translator, {"method": {"rank": 4, "target_modules": ["q", "v"]}}, questions),
}


@pytest.fixture(params=TASKS, ids=str)
def case(request):
    """A task's model, with every metric that fits it, and the examples of three sites."""
    make, sections, examples = TASKS[request.param]
    names = list(fitting(make(**sections).model))
    spec = make(**sections, evaluation={"metrics": names, "batch_size": 4, "max_new_tokens": 4})
    folder = {"a decoder": "tiny_gpt2", "an encoder and decoder": "tiny_t5"}.get(request.param, "tiny_bert")
    sites = [examples(size, 60 + number) for number, size in enumerate(SIZES)]
    return TaskModel.load(spec, request.getfixturevalue(folder)), sites


def together(task, sites):
    return measured(pool([evaluate(task, site).counts for site in sites]))


def outputs_of(task, sites):
    task.model.eval()
    scores, targets = [], []
    with torch.no_grad():
        for example in [example for site in sites for example in site]:
            batch = task.collate([example])
            predictions = task.task.predictions(task.outputs(batch), batch)
            scores, targets = [*scores, predictions.scores], [*targets, predictions.targets]
    return torch.cat(scores), torch.cat(targets)


@pytest.mark.slow
def test_sites_are_measured_as_one(case):
    task, sites = case
    whole = [example for site in sites for example in site]
    metrics = together(task, sites).metrics
    assert set(metrics) <= set(task.spec.measured)
    assert len(metrics) >= len(task.spec.measured) - 2  # a matrix is no number; one may be undefined
    assert metrics == pytest.approx(evaluate(task, whole).metrics, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_numbers_are_judged_as_scipy_and_scikit_learn_do(tiny_bert):
    names = ["mae", "r2", "pearson", "spearman"]
    task = TaskModel.load(classifier(model={"source": "m", "num_labels": 1}, evaluation={"metrics": names}), tiny_bert)
    sites = [rated(size, number) for number, size in enumerate(SIZES)]
    scores, targets = outputs_of(task, sites)
    expected = {
        "mse": judge.mean_squared_error(targets, scores),
        "mae": judge.mean_absolute_error(targets, scores),
        "r2": judge.r2_score(targets, scores),
        "pearson": stats.pearsonr(scores, targets).statistic,
        "spearman": stats.spearmanr(scores, targets).statistic,
    }
    metrics = together(task, sites).metrics
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_perplexity_is_of_all_answer_tokens(tiny_gpt2):
    task = TaskModel.load(language_model(evaluation={"metrics": ["perplexity"]}), tiny_gpt2)
    sites = [questions(7, 1), [{"row": 1, "prompt": "the", "completion": "music food today"}]]
    scores, targets = outputs_of(task, sites)
    expected = torch.nn.functional.cross_entropy(scores.double(), targets).exp().item()
    assert together(task, sites).metrics["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_no_number_is_no_measure(tiny_bert):
    task = TaskModel.load(classifier(model={"source": "m", "num_labels": 3, "dtype": "float16"}), tiny_bert)
    examples = [{**example, "row": row} for row, example in enumerate(sentences(5, 1), start=2)]
    seen = {token for example in examples for token in task.collate([example])["input_ids"][0].tolist()}
    unseen = max(set(range(task.model.config.vocab_size)) - seen)
    with torch.no_grad():
        task.model.bert.embeddings.word_embeddings.weight[unseen] = torch.nan
    examples[3]["text"] = task.inputs.tokenizer.decode([unseen])
    with pytest.raises(
        TaskError, match=r"^row 5: the model's loss on it is nan; look at the row, .* model.dtype \(float16\)"
    ):
        evaluate(task, examples)
    with torch.no_grad():
        task.model.classifier.bias[0] = torch.nan
    with pytest.raises(TaskError, match=r"^row \d and those beside it: .* nan; look at model.source, at model.dtype "):
        evaluate(task, examples)
