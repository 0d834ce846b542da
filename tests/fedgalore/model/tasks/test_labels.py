"""Labels of examples: classes, several classes, numbers, tags; what is refused; weights of classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from fedgalore.evaluation import evaluate
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples, task_of
from fedgalore.rounds import Start
from tests.fedgalore.conftest import CLASSES, classifier, rated, sentences, several, tagged, tagger
from tests.fedgalore.rounds import an_update

NAMED = {"source": "m", "num_labels": None, "label_names": list(CLASSES)}


def several_labels(**model):
    return classifier(model={**NAMED, "problem": "multi_label", **model})


def text(label, row=7):
    return {"row": row, "text": "rain", "text_pair": None, "label": label}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (["music", "weather"], [1, 1, 0]),
        ([2], [0, 0, 1]),
        (["2", "music"], [0, 1, 1]),
        ([], [0, 0, 0]),
        ([0, 0, 1], [0, 0, 1]),
        ([1, 1, 1], [1, 1, 1]),
        ([0.0, 1.0, 1.0], [0, 1, 1]),
        ([False, True, False], [0, 1, 0]),
        ('["0", "True", 0.0]', [0, 1, 0]),
        (("food",), [0, 0, 1]),
    ],
    ids=str,
)
def test_a_list_names_the_classes_that_apply_or_says_0_or_1_of_each(label, expected):
    assert task_of(several_labels()).problem.label(text(label)) == expected


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("music", r"row 7: label 'music' is no list; .*multi_label give a list"),
        (1, r"row 7: label 1 is no list"),
        (["music", "sport"], r"row 7: label 'sport' is not a class of this job; expected one of weather, music, food"),
        (["music", 1], r"row 7: label \['music', 1\] names a class twice"),
        ([0, 3], r"row 7: label 3 is outside the range 0 to 2"),
    ],
    ids=str,
)
def test_what_is_no_list_of_classes_is_refused(label, words):
    with pytest.raises(TaskError, match=words):
        check_examples([text([], 1), text(label)], several_labels())


@pytest.mark.parametrize("label", [[0, 1], [1, 0]])
def test_a_list_of_two_numbers_of_two_classes_is_refused_with_both_readings(label):
    spec = several_labels(label_names=["a", "b"])
    with pytest.raises(TaskError, match=r"row 7: label .* may be the classes .*, or a mark for each class"):
        check_examples([text(label)], spec)
    assert task_of(spec).problem.label(text([False, True])) == [0, 1]
    assert task_of(spec).problem.label(text([1])) == [0, 1]


def test_numbers_are_taken_from_text_and_what_is_none_is_refused():
    spec = classifier(model={"num_labels": 1})
    assert task_of(spec).problem.targets([text(1), text("2.5"), text([-3.0])]).tolist() == [[1], [2.5], [-3]]
    for label in ("good", None, True, float("nan"), "inf", 1e39, 10**400):
        with pytest.raises(
            TaskError, match=r"row 7: label .{1,90} is no number that a float32 holds.*model\.problem: single_label"
        ):
            check_examples([text(label)], spec)
    with pytest.raises(TaskError, match=r"row 7: the label holds 2 numbers, and the job predicts 1; .*num_labels"):
        check_examples([text([1, 2])], spec)


# --- tags ----------------------------------------------------------------------------------------------------


def test_a_words_first_token_has_its_tag(tiny_bert):
    task = TaskModel.load(tagger(data={"max_length": 6}), tiny_bert)
    examples = [
        {"row": 1, "tokens": ["rain-bread", "soup"], "tags": ["B-FOOD", 2]},  # tokens: rain, -, bread
        {"row": 2, "tokens": ["the", "", "sun", "a", "rice", "plum"], "tags": ["O", "O", "O", "O", "B-FOOD", "I-FOOD"]},
    ]
    batch = task.collate(examples)
    words = [task.inputs.tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"]]
    assert words[0] == ["[CLS]", "rain", "[UNK]", "bread", "soup", "[SEP]"]
    assert batch["labels"].tolist() == [[-100, 1, -100, -100, 2, -100], [-100, 0, 0, 0, 1, -100]]


def test_tags_that_do_not_fit_are_refused():
    for example, words in (
        ({"row": 3, "tokens": ["a", "b"], "tags": ["O"]}, "row 3: 2 tokens have 1 tags; give each token one tag"),
        (
            {"row": 3, "tokens": ["a"], "tags": ["B-PLACE"]},
            "row 3: tag 'B-PLACE' is not a class of this job; expected one",
        ),
        ({"row": 3, "tokens": ["a"], "tags": [3]}, "row 3: tag 3 is outside the range 0 to 2"),
        (sentences(1, 0)[0], "data: task token-classification needs the columns tokens and tags"),
    ):
        with pytest.raises(TaskError, match=words):
            check_examples([example], tagger())


# --- weights of classes --------------------------------------------------------------------------------------


def weighed(make, weights):
    return make(local={"steps": 1, "batch_size": 5, "class_weights": weights})


def test_balanced_weights_are_those_of_scikit_learn():
    labels = [0, 2, 2, 0, 2, 2]
    weights = task_of(weighed(classifier, "balanced")).class_weights([text(label) for label in labels])
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
    torch.testing.assert_close(weights[[0, 2]].double(), torch.tensor(expected))
    assert weights[1] == 1
    tags = [tag for example in tagged(6, 0) for tag in example["tags"]]
    weights = task_of(weighed(tagger, "balanced")).class_weights(tagged(6, 0))
    expected = compute_class_weight("balanced", classes=np.array(["O", "B-FOOD", "I-FOOD"]), y=tags)
    torch.testing.assert_close(weights.double(), torch.tensor(expected))


def test_a_rare_label_of_several_weighs_as_much_as_its_absence():
    spec = classifier(
        model={**NAMED, "problem": "multi_label"}, local={"steps": 1, "batch_size": 2, "class_weights": "balanced"}
    )
    examples = [text([0, 2]), text([2]), text([2]), text([2])]
    assert task_of(spec).class_weights(examples).tolist() == [3, 1, 1]


def test_weights_change_the_training_and_not_the_evaluation(tiny_bert):
    examples = sentences(5, 0)
    plain, heavy = (TaskModel.load(weighed(classifier, weights), tiny_bert) for weights in (None, [1, 5, 0.5]))
    assert plain.class_weights(examples) is None
    heavy.model.eval()
    batch = heavy.collate(examples)
    logits = heavy.model(**heavy.task.model_inputs(batch)).logits
    expected = F.cross_entropy(logits, batch["labels"], torch.tensor([1, 5, 0.5]))
    torch.testing.assert_close(heavy.loss(batch, heavy.class_weights(examples))[0], expected)
    assert evaluate(plain, examples).metrics["loss"] == evaluate(heavy, examples).metrics["loss"]
    updates = [an_update(task, task.spec, examples, "a", 1, Start(task.weights())) for task in (plain, heavy)]
    assert updates[0].metrics["train_loss"] != updates[1].metrics["train_loss"]


def test_numbers_have_no_accuracy(tiny_bert):
    task = TaskModel.load(classifier(model={"num_labels": 1}), tiny_bert)
    assert "train_accuracy" not in an_update(task, task.spec, rated(4, 0), "a", 1, Start(task.weights())).metrics
    assert set(evaluate(task, rated(4, 0)).metrics) == {"loss", "mse"}


def test_several_labels_are_right_together(tiny_bert):
    task = TaskModel.load(several_labels(), tiny_bert)
    with torch.no_grad():
        task.model.classifier.weight.zero_()
        task.model.classifier.bias.copy_(torch.tensor([-1.0, 1.0, -1.0]))
    examples = several(40, 0)
    expected = sum(example["label"] == ["music"] for example in examples) / 40
    assert 0 < evaluate(task, examples).metrics["accuracy"] == expected < 1
