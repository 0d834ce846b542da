"""Whether a site's data fit a job, without a model."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fedgalore.preflight import Finding, Split, preflight
from tests.builders import a_spec

LANGUAGE_MODEL = {"num_labels": None, "task": "causal-lm"}
ROWS = [{"text": "a film", "label": 0, "row": 1}, {"text": "good food", "label": 1, "row": 2}]


def look(train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None, **sections: Any) -> Finding:
    held_out = Split("test.csv", test) if test is not None else None
    return preflight(a_spec(**sections), Split("train.csv", train), held_out)


def test_data_that_fit_are_told_in_numbers() -> None:
    assert look(ROWS, ROWS[:1]) == Finding((), 2, 1, 2, len("good food"))
    assert look(ROWS) == Finding((), 2, 0, 2, len("good food"))
    talk = [{"row": 1, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    assert look(talk, model=LANGUAGE_MODEL) == Finding((), 1, 0, 0, 2, conversations=True)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there are no examples"),
        ([{"prompt": "2 + 2", "completion": "4"}], "needs the columns text and label"),
        ([*ROWS, {"text": "so so", "label": 2, "row": 3}], "row 3"),
    ],
)
def test_the_first_problem_of_each_split_is_named_with_its_file(rows: list[dict[str, Any]], words: str) -> None:
    problem = look(rows).problem
    assert problem is not None
    assert problem.startswith("train.csv: ")
    assert words in problem
    problem = look(rows, rows).problem
    assert problem is not None
    assert problem.count(words) == 2
    assert "; test.csv: " in problem


def test_what_leaves_the_site_is_a_code_and_a_count() -> None:
    rows = [*ROWS, {"text": "so so", "label": "Ann Lee", "row": 3}, {"prompt": "a", "completion": "b", "row": 4}]
    (first, second) = look(rows, []).misfits
    assert (first.code, second.code) == ("data.examples", "data.examples")
    assert first.told.startswith("2 of its 4 training examples have columns, labels or texts that the job does not")
    assert second.told == "it has no test examples"
    assert not any(word in first.told + second.told for word in ("Ann", "row", "csv"))
    answers = [{"prompt": "1 + 1", "completion": completion, "row": 1} for completion in ("2", "two")]
    evaluation = {"exact_match": "number", "max_new_tokens": 4}
    (misfit,) = look(answers, answers, model=LANGUAGE_MODEL, evaluation=evaluation).misfits
    assert misfit.code == "data.answers"
    assert misfit.told.startswith("1 of its 2 test examples have a completion without a number")


TEMPLATE = {"prompt": "{question} {hint}", "completion": "{answer}"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"columns": {"question": "1+1", "hint": "", "answer": "2"}}, None),
        ({"columns": {"question": "1+1", "hint": ""}}, "it names the column answer, but this data set's columns for"),
        ({"columns": {"question": "1+1"}, "prompt": "a"}, "hint, but .* are prompt, question; add hint to columns in"),
        ({"text": "a", "label": 0}, "the column question, but this data set's columns for templates are none; add"),
        ({"columns": {"question": " ", "hint": "", "answer": "2"}}, "row 7: data.template makes a prompt of it in whi"),
        ({"columns": {"question": "a", "hint": "", "answer": "\n"}}, "row 7: data.template makes a completion of it"),
    ],
)
@pytest.mark.parametrize("task", ["causal-lm", "seq2seq-lm"])
def test_columns_have_to_fill_the_template(task: str, row: dict[str, Any], words: str | None) -> None:
    data = {"name": "reviews", "template": TEMPLATE}
    problem = look([{"row": 7, **row}], model=LANGUAGE_MODEL | {"task": task}, data=data).problem
    assert (problem is None) == (words is None)
    if problem is not None and words is not None:
        assert re.match(rf"train\.csv: (data\.template: )?.*{words}", problem)
        without = look([{"row": 7, **row}], model=LANGUAGE_MODEL | {"task": task}).problem
        assert without is not None
        assert ("or post a job with data.template" in without) == ("columns" in row)


@pytest.mark.parametrize(("split", "place"), [("train", "train.csv"), ("test", "test.csv")])
def test_answers_are_looked_at_where_they_are_compared(split: str, place: str) -> None:
    right = [{"prompt": "2 + 2", "completion": "4", "row": 1}]
    odd = [{"prompt": "2 + 2", "completion": "four", "row": 1}]
    evaluation = {"exact_match": "number", "split": split}
    train, test = (odd, right) if split == "train" else (right, odd)
    problem = look(train, test, model=LANGUAGE_MODEL, evaluation=evaluation).problem
    assert problem is not None
    assert problem.startswith(f"{place}: row 1: the completion holds no number")
    assert look(test, train, model=LANGUAGE_MODEL, evaluation=evaluation).problem is None
    assert look(odd, odd, model=LANGUAGE_MODEL, evaluation={"exact_match": "text"}).problem is None
