"""The reference of REST: every call and every shape is there, and the page is up to date."""

from __future__ import annotations

import re

import pytest

from tools import rest_reference
from tools.rest_reference import blocks, document


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert rest_reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_call_is_there_and_every_link_leads_to_a_shape() -> None:
    openapi = document()
    made = blocks(openapi)
    for path, calls in openapi["paths"].items():
        for method in calls:
            assert f"#### `{method.upper()} {path}`" in made["calls"]
    text = made["calls"] + made["shapes"]
    shapes = {name.lower() for name in re.findall(r"^### (\w+)$", made["shapes"], re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= shapes


def test_a_call_shows_role_parameters_body_answers_and_examples() -> None:
    operation = {
        "tags": ["jobs"],
        "description": "Stops | it.\n\nNeeds a key of role operator.",
        "parameters": [
            {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}},
            {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 50}},
        ],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wish"}}}},
        "responses": {
            "200": {
                "description": "Successful Response",
                "content": {"application/json": {"schema": {"type": "boolean"}, "example": True}},
            },
            "default": {"description": "Problem"},
        },
    }
    wish = {"properties": {"what": {"type": "string", "maxLength": 5, "description": "Of\nit"}}}
    made = blocks({"paths": {"/stop": {"post": operation}}, "components": {"schemas": {"Wish": wish}}})
    assert made["calls"].split("\n\n") == [
        "### jobs",
        "#### `POST /stop`",
        "Stops | it.",
        "Role: operator.",
        f"{rest_reference.PARAMETERS}| `limit` | query | whole number | `50` | at least 1 |  |",
        "Body: [Wish](#wish) as `application/json`.",
        "- 200: true or false as `application/json`",
        "Example:",
        "```json\ntrue\n```",
    ]
    assert made["shapes"] == f"### Wish\n\n{rest_reference.FIELDS}| `what` | text | at most 5 characters | Of it |"
