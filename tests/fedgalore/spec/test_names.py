"""Names of classes in a job's document: texts that differ to a reader."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from fedgalore.spec.documents import read_yaml
from fedgalore.spec.job import SpecError, parse


def job(names: Any) -> dict[str, Any]:
    return {"name": "t", "model": {"source": "m", "label_names": names}, "data": {"name": "d"}}


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("[true, false]", "name 1 was read as the truth value true, not as text; put it in quotes"),
        ("[yes, True]", "name 2 was read as the truth value true"),
        ("[1, 2]", "name 1 was read as the number 1"),
        ("[a, 1.0]", "name 2 was read as the number 1.0"),
        ("[a, ~]", r"name 2 was read as nothing \(null\)"),
        ("[a, ]", "needs at least two"),
        ("[a, [b]]", r"name 2 was read as the list \['b'\]"),
    ],
)
def test_what_yaml_reads_as_something_else_is_refused_with_the_way_out(yaml: str, words: str) -> None:
    with pytest.raises(SpecError, match=rf"^model(\.label_names)?: .*{words}"):
        parse(job(read_yaml(yaml)))


def test_a_date_that_is_no_text_is_refused() -> None:
    with pytest.raises(SpecError, match=r"name 1 was read as a date, datetime.date"):
        parse(job([datetime.date(2024, 1, 1), "b"]))


def test_words_of_old_yaml_are_names() -> None:
    assert parse(job(read_yaml("[no, yes, on, 2024-01-01]"))).model.label_names == ("no", "yes", "on", "2024-01-01")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "at least two different names"),
        (["a", "b", "a"], "names 1 and 3 are both 'a' to a reader; rename one"),
        (["caf\u00e9", "cafe\u0301"], "names 1 and 2 are both"),
        (["a", " a"], "names 1 and 2 are both"),
        (["a", " "], "name 2 is empty"),
    ],
)
def test_names_differ_to_a_reader(names: list[str], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse(job(names))
