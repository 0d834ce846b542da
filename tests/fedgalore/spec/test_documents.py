"""Documents: what is read as plain values, what is refused, and how soon."""

from __future__ import annotations

import time

import pytest
import yaml

from fedgalore.spec.documents import MOST_VALUES, DocumentError, printable, read_json, read_yaml, write_yaml


def test_plain_values_are_read() -> None:
    assert read_yaml("a: [1, 2.5, true, null, 'text']\nb: {c: 1e-3}\n") == {
        "a": [1, 2.5, True, None, "text"],
        "b": {"c": 1e-3},
    }
    assert read_json('{"a": [1, 2.5, true, null]}') == {"a": [1, 2.5, True, None]}
    assert read_yaml("") is None


def test_words_that_are_truth_values_and_dates_in_old_yaml_are_texts() -> None:
    assert read_yaml("[no, Yes, ON, off, y, 2024-01-31, no way]") == [
        "no",
        "Yes",
        "ON",
        "off",
        "y",
        "2024-01-31",
        "no way",
    ]
    assert read_yaml("{no: True, on: FALSE, truest: falsely}") == {"no": True, "on": False, "truest": "falsely"}
    assert read_yaml("{<<: {a: 1}, b: =, c: !!str 1}") == {"<<": {"a": 1}, "b": "=", "c": "1"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("1e-3", 1e-3), ("1.0e-3", 1e-3), ("-2E5", -2e5), (".5", 0.5), ("5.", 5.0), ("1_000", 1000), ("0x1F", 31)),
        *(("0", 0), ("-7", -7), ("0.25", 0.25), ("010", "010"), ("08", "08"), ("1:30", "1:30"), ("1:30.5", "1:30.5")),
        *(("1.2.3", "1.2.3"), ("1e", "1e"), ("00.5", "00.5"), (".inf", float("inf")), ("+.5e1", 5.0)),
    ],
)
def test_numbers_are_those_that_cannot_be_meant_otherwise(written: str, value: object) -> None:
    read = read_yaml(f"a: {written}")["a"]
    assert (read, type(read)) == (value, type(value))


def test_what_is_written_is_read_back() -> None:
    values = [
        "1e-3",
        1e-3,
        "010",
        "1:30",
        "no",
        "2024-01-31",
        "1.5",
        1.5,
        10**20,
        -1e300,
        1e16,
        "1e5",
        True,
        "true",
        None,
    ]
    written = write_yaml({"b": values, "1e5": "+.5e1", "a": 0.1})
    assert read_yaml(written) == {"b": values, "1e5": "+.5e1", "a": 0.1}
    assert yaml.safe_load(written) == read_yaml(written)
    assert list(read_yaml(written)) == ["b", "1e5", "a"]


BOMBS = {
    "merged": "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b, *b]}",
    "billion laughs": "a: &a [lol, lol]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
    "in itself": "a: &a [*a]",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_what_stands_for_more_than_is_written_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match=r"line \d, column \d+: aliases .* write the value out"):
        read_yaml(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "line 1, column 5: "),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' is given twice"),
        ("{a: {b: 1, 'b': 2}}", "the key 'b' is given twice"),
        (
            "a: !!python/object/apply:os.getcwd []",
            "apply:os.getcwd is of no plain value; write the value out",
        ),
        ("a: !!bool x", "a value does not fit its tag"),
        ("a: !!int ''", "a value does not fit its tag"),
        *((f"a: !!{tag}", "is of no plain value") for tag in ("timestamp x", "binary aGk=", "set {b}", "omap [b: 1]")),
        ("!!merge a: {b: 1}", "is of no plain value"),
        ("[1]: 2\n{}: 3", "found unhashable key"),
        (f"a: !!int 1{':1' * 100_000}", "a number of more than 100 characters"),
        (f"a: !!float 1{':1' * 500}.5", "a number of more than 100 characters"),
        (f"a: 0x{'f' * 500_000}", "a number of more than 100 characters"),
        ("[" * 200_000, "nested too deeply"),
        ("- " * 200_000, "nested too deeply"),
        (f"[{'a,' * 400_000}]", f"more than {MOST_VALUES} values; write it as JSON"),
        ("a: \x1b[31m", "special characters are not allowed"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_refused_in_seconds_with_its_place(text: str | bytes, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        read_yaml(text)
    assert str(caught.value).startswith("not valid YAML: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - started < 20  # alone it takes one or two


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1 column 2"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice; leave one out"),
        ('{"a": {"b": 1, "\\u001b": 2, "\\u001b": 3}}', "is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits; shorten it"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_json(text)
    assert str(caught.value).startswith("not valid JSON: ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_strangers_wrote_is_shown_without_control_characters_and_cut() -> None:
    assert printable("Größe", 60) == "Größe"
    assert printable("\x1b[2J", 60) == r"\x1b[2J"
    assert printable("\ud800", 60) == r"\ud800"
    assert printable("x" * 100, 60) == "x" * 60 + "..."
