"""The reference of jobs: every field is there with what the models say of it, and the page is up to date."""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore.spec.job import JobSpec
from fedgalore.spec.registry import methods
from tools import job_reference
from tools.job_reference import blocks


def rows(table: str) -> dict[str, list[str]]:
    """Cells by field."""
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert job_reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_field_of_every_section_is_there_and_described() -> None:
    schema = JobSpec.model_json_schema()
    text = "\n".join(blocks().values())
    for part in [schema, *schema["$defs"].values()]:
        for name in part.get("properties", {}):
            assert name == "kind" or f"| `{name}` |" in text or f".{name}` |" in text, name


def test_every_kind_of_method_has_a_part() -> None:
    titles = [line for line in blocks()["method"].splitlines() if line.startswith("#### kind: ")]
    kinds = [kind.strip("` ") for title in titles for kind in title.removeprefix("#### kind: ").split(",")]
    assert sorted(kinds) == sorted(methods())


@pytest.mark.parametrize(
    ("section", "field", "cells"),
    [
        ("job", "model", ["[section](#model)", "required", ""]),
        ("job", "rounds", ["[section](#rounds)", "see there", ""]),
        ("job", "privacy", ["[section](#privacy)", "`null`", ""]),
        ("job", "name", ["name", "required", ""]),
        ("rounds", "count", ["whole number", "`20`", "1 to 100,000"]),
        ("rounds", "goal_clients", ["whole number or null", "`null`", "1 to 10,000"]),
        ("rounds", "deadline_s", ["number", "`600`", "above 0, at most 604,800"]),
        ("local", "group_by_length", ["true or false", "`false`", ""]),
        ("local", "betas", ["list of 2: number, number", "`[0.9, 0.999]`", "each at least 0, below 1"]),
        ("local", "precision", ["`float32`, `bfloat16`", '`"float32"`', ""]),
        ("evaluation", "every", ["whole number", "`1`", "at least 0"]),
        ("evaluation", "keep", ["mapping of fields or null", "`null`", ""]),
        ("evaluation", "keep.metric", ["text", "required", "at most 500 characters"]),
        ("rounds", "keep_versions.last", ["whole number", "`3`", "at least 1"]),
        ("evaluation", "exact_match", ["`text`, `number` or null", "`null`", ""]),
        (
            "model",
            "label_names",
            ["list of text or null", "`null`", "at most 100,000 entries; each at most 500 characters"],
        ),
        ("privacy", "clip_norm", ["number", "required", "above 0, at most 1,000,000"]),
    ],
)
def test_type_default_and_range_are_those_of_the_models(section: str, field: str, cells: list[str]) -> None:
    assert rows(blocks()[section])[field][:3] == cells


def test_kinds_with_the_same_fields_share_a_part() -> None:
    def kind(name: str, about: str, **fields: Any) -> dict[str, Any]:
        return {"description": about, "properties": {"kind": {"const": name}, **fields}}

    number = {"type": "number", "description": "a | b"}
    text = job_reference._kinds([kind("a", "first", x=number), kind("b", "second", x=number), kind("c", "third")])
    table = job_reference.HEAD + "| `x` | number | `null` |  | a \\| b |"
    shared = f"#### kind: `a`, `b`\n\n- `a`: first\n- `b`: second\n\n{table}"
    assert text == f"{shared}\n\n#### kind: `c`\n\nthird\n\n{job_reference.HEAD}"
