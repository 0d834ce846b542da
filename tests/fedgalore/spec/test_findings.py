"""Whatever is wrong with a document is said in words of the document: field, value, and what the field takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from client_agent.settings import AgentSettings
from coordinator.settings import CoordinatorSettings
from fedgalore.spec.findings import OWN, explain, given, rows, schema_of
from fedgalore.spec.job import JobSpec
from fedgalore.spec.takes import branches, takes
from tests.builders import job_document

AGENT = {"name": "site-a", "work_dir": "work", "data": {"reviews": {"train": "a.csv", "text": "t", "label": "l"}}}
CUSTOM: dict[str, dict[str, Any]] = {
    "JobSpec": {**job_document(), "privacy": {"clip_norm": 1.0, "noise_multiplier": 1.0}},
    "AgentSettings": AGENT,
    "CoordinatorSettings": {"held_out": {"reviews": {"file": "a.csv", "text": "t", "label": "l"}}},
}
WRONG = (None, True, "¿", [], ["¿", {}], {"¿": 1}, -7.5, 2**63, float("inf"))
PYDANTIC = ("Input should", "Field required", "should have", "should match", "unable to", "tag ", "discriminator")


def places(schema: dict[str, Any], root: dict[str, Any], document: Any, path: tuple[str, ...] = ()) -> Iterator[Any]:
    """Every field of a schema with its part of the schema; mappings of any key where the document has one."""
    for each in branches(schema, root):
        inner = each.get("properties", {})
        for values in each.get("patternProperties", {}).values():
            inner = inner | dict.fromkeys(document if isinstance(document, dict) else (), values)
        if each.get("properties", {}).get("kind", {}).get("const", "fedgalore") != "fedgalore":
            continue
        for key, part in inner.items():
            yield (*path, key), part
            yield from places(part, root, document.get(key) if isinstance(document, dict) else None, (*path, key))


def changed(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    place: Any = document
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[path[-1]] = value
    return document


def found(model: type[BaseModel], document: dict[str, Any]) -> tuple[list[Any], list[dict[str, str]]]:
    try:
        model(**document)
    except ValidationError as error:
        return error.errors(), explain(error, model)
    return [], []


@pytest.mark.parametrize("model", [JobSpec, AgentSettings, CoordinatorSettings])
def test_every_field_says_what_was_given_and_what_it_takes(model: type[BaseModel]) -> None:
    root, document, refused = schema_of(model), CUSTOM[model.__name__], 0
    for path, part in places(root, root, document):
        secret = any(each.get("writeOnly") for each in branches(part, root))
        for value in WRONG:
            findings, told = found(model, changed(document, path, value))
            for row in told:
                assert not any(phrase in row["problem"] for phrase in PYDANTIC), row
            plain = [each for each in findings if each["loc"][-1:] == path[-1:] and "_type" in each["type"]]
            mine = [row for row in told if row["field"] == ".".join(path)]
            if not plain or not mine or "does not fit" not in mine[0]["problem"]:
                continue
            refused += 1
            assert mine[0]["problem"].endswith(f"does not fit; give {takes(part, root)}")
            assert (given(value) in mine[0]["problem"]) is not secret
    assert refused > 20


def test_no_type_of_finding_is_told_in_pydantics_words() -> None:
    schema = {"properties": {"rank": {"type": "integer", "minimum": 1}}}
    for kind in get_args(ErrorType):
        finding = {"type": kind, "loc": ("rank",), "input": "x", "msg": "PYDANTIC", "ctx": {"error": "at 3"}}
        (row,) = rows([finding], schema)
        assert row["field"] == "rank"
        assert ("PYDANTIC" in row["problem"]) is (kind in OWN)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "exclusiveMaximum": 2**31}, "a whole number from 1 to 2147483647"),
        ({"type": "number", "exclusiveMinimum": 0}, "a number above 0"),
        ({"type": "number", "minimum": 0.0, "exclusiveMaximum": 0.5}, "a number of at least 0 and below 0.5"),
        ({"anyOf": [{"type": "null"}, {"const": "best"}, {"type": "boolean"}]}, "best or true or false, or null"),
        ({"type": "string", "minLength": 1}, "a text of at least 1 characters"),
        ({"type": "string", "format": "path"}, "a path"),
        ({"type": "string", "pattern": "^[a-z]$"}, "a text that matches ^[a-z]$"),
        ({"type": "string", "pattern": "^[a-z]$", "examples": ["a", "b"]}, "a text such as a or b"),
        ({"type": "array", "items": {"type": "number"}, "maxItems": 2}, "a list of at most 2 items, each a number"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "a mapping, each value a whole number"),
        ({"type": "object", "properties": {"a": {}}}, "a mapping with the key a"),
        ({}, "another value"),
    ],
)
def test_what_a_field_takes_is_told_by_its_schema(schema: dict[str, Any], words: str) -> None:
    assert takes(schema, schema) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing (null)"),
        (True, "true"),
        (b"a=\xff", "'a=\ufffd'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        (list(range(9)), "a list of 9"),
        ([10**5000], "a number of thousands of digits"),
        ([[[[]]]], "[[[...]]]"),
    ],
)
def test_a_value_is_shown_short_and_printable(value: Any, words: str) -> None:
    assert given(value) == words
    assert len(given("x" * 10_000)) < 130


def test_a_secret_is_not_shown() -> None:
    for model, key in ((AgentSettings, "join_token"), (CoordinatorSettings, "operator_key")):
        _, told = found(model, CUSTOM[model.__name__] | {key: 12345678})
        assert [row["problem"] for row in told if row["field"] == key] == [
            "what is given does not fit; give a text, or null"
        ]
