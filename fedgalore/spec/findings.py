"""What pydantic finds wrong with a document, in words for people: one translation for every door.

Pydantic says where a value stands and which type of finding it is. The words come from elsewhere: what the value was,
and what the field takes by its JSON schema. So every finding has a sentence, whatever its type is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from reprlib import Repr
from typing import Any

from pydantic import BaseModel, ValidationError

from fedgalore.spec.documents import printable
from fedgalore.spec.takes import Schema, branches, takes

Row = dict[str, str]
WHOLE = "document"  # the field of a finding that is none's
MOST_ROWS = 50  # of what is wrong with one document
MOST_SHOWN = 60  # characters of a value or a key
KEY = "[key]"  # what pydantic puts behind a key that is not one
OWN = ("value_error", "assertion_error")  # sentences of this project's own validators
_NAMED = re.compile(r"(?P<field>(?P<first>\w+)[\w.]*): (?P<problem>.*)", re.DOTALL)  # a sentence of a validator
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MOST_SHOWN
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple = 2, 3, 3, 3


def explain(error: ValidationError, model: type[BaseModel]) -> list[Row]:
    """The findings of a document of this model as `{field, problem}` rows."""
    return rows(error.errors(include_url=False), schema_of(model))


@cache
def schema_of(model: type[BaseModel]) -> Schema:
    """The JSON schema of a model."""
    return model.model_json_schema()


def rows(
    findings: Iterable[Mapping[str, Any]], schema: Schema, root: Schema | None = None, whole: str = WHOLE
) -> list[Row]:
    """`{field, problem}` rows, one for each field, of what pydantic's `errors()` gives.

    Args:
        schema: of what the places of the findings start from; its references point into `root`.
        whole: the field of a finding that is none's.
    """
    problems: dict[str, str] = {}
    for finding in findings:
        path, part = _found(finding["loc"], schema, root or schema)
        field = ".".join(printable(str(step), MOST_SHOWN) for step in path if step != KEY)
        problem = ""
        if len(problems) < MOST_ROWS:  # the others are counted: a stranger may have sent very many
            problem = _problem(finding, path, part, root or schema)
        if not field and (named := _NAMED.match(problem)) and named["first"] in schema.get("properties", {}):
            field, problem = named["field"], named["problem"]
        problems.setdefault(field or whole, problem)
    left = len(problems) - MOST_ROWS
    more = [{"field": whole, "problem": f"{left} more; correct these first"}] if left > 0 else []
    return [{"field": field, "problem": problem} for field, problem in problems.items() if problem] + more


def does_not_fit(value: Any, wanted: str) -> str:
    """The sentence for a value that a field does not take."""
    return f"{given(value)} does not fit; give {wanted}"


def given(value: Any) -> str:
    """A document's value in a message: short and printable."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, list | tuple) and len(value) > _SHORT.maxlist:
        return f"a list of {len(value)}"
    try:
        return printable(_SHORT.repr(value), 2 * MOST_SHOWN)
    except (ValueError, RecursionError):  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def close_to(name: str, known: Sequence[str]) -> str:
    """A question for the name that was meant, if one is close, such as " (did you mean rank?)"."""
    close = get_close_matches(name[:MOST_SHOWN], known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _problem(finding: Mapping[str, Any], path: Sequence[Any], part: Schema, root: Schema) -> str:
    match finding["type"]:
        case kind if kind in OWN:
            return str(finding["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        case "extra_forbidden":
            known = [key for each in branches(part, root) for key in each.get("properties", {})]
            return f"unknown key; remove it or check its spelling{close_to(str(path[-1]), known)}"
        case "missing":
            return f"is missing; give {takes(part, root)}"
        case "string_unicode":
            return f"{given(finding['input'])} holds what is no Unicode text; correct it"
        case "json_invalid":
            return f"is not valid JSON ({finding['ctx']['error']}); correct it"
    if any(each.get("writeOnly") for each in branches(part, root)):
        return f"what is given does not fit; give {takes(part, root)}"  # a secret is not shown
    if path and path[-1] == KEY:
        return f"the key {does_not_fit(finding['input'], takes(part, root))}"
    return does_not_fit(finding["input"], takes(part, root))


def _found(place: Sequence[Any], schema: Schema, root: Schema) -> tuple[list[Any], Schema]:
    """The path of a finding as the document has it, and the schema there; of an unknown key, that of its mapping.

    Pydantic's names of the members of a union stand in its places, and are left out.
    """
    path: list[Any] = []
    holder = schema
    for step in place:
        if step == KEY:
            return [*path, step], _keys(holder)
        holder, members = schema, [each for each in branches(schema, root) if each.get("type") != "null"]
        named = [each for each in members if each.get("properties", {}).get("kind", {}).get("const") == step]
        inside = named or [found for each in members if (found := _inside(each, step)) is not None]
        if not inside and len(members) > 1:
            break  # a member's name: what all of them take is told
        if not named:
            path.append(step)
        if not inside:
            break
        schema = inside[0]
    return path, schema


def _inside(schema: Schema, step: Any) -> Schema | None:
    """The schema of a key or an entry of what this schema describes."""
    if isinstance(step, int):
        ordered = schema.get("prefixItems", [])
        found: Schema | None = ordered[step] if step < len(ordered) else schema.get("items")
        return found
    others = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    found = schema.get("properties", {}).get(step, others[0])
    return found if isinstance(found, dict) else None


def _keys(schema: Schema) -> Schema:
    """What the keys of a mapping are."""
    patterns = list(schema.get("patternProperties", {}))
    return {"type": "string", **({"pattern": patterns[0]} if patterns else schema.get("propertyNames", {}))}
