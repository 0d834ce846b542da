"""What a value of a JSON schema may be, in words: for the references of jobs and of REST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

UNBOUNDED = 2**53  # the bound of all counts, which no reader needs to see
IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"  # the pages call it a name
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
FORMATS = {"date-time": "time", "binary": "bytes"}
SIZES = {"Length": "characters", "Items": "entries", "Properties": "entries"}

Schema = Mapping[str, Any]


def type_words(node: Schema, model: Callable[[str], str] = lambda name: "mapping of fields") -> str:
    """The type of a value; `model` says what to call a mapping with named fields."""
    for key in ("anyOf", "oneOf"):
        if key in node:
            return " or ".join(dict.fromkeys(type_words(part, model) for part in node[key]))
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if node.get("pattern") == IDENTIFIER:
        return "name"
    if "$ref" in node:
        return model(node["$ref"].rpartition("/")[2])
    match node.get("type"):
        case "array":
            fixed = [type_words(part, model) for part in node.get("prefixItems", ())]
            return (
                f"list of {len(fixed)}: {', '.join(fixed)}" if fixed else f"list of {type_words(node['items'], model)}"
            )
        case "object":
            key = "name" if "patternProperties" in node else "text"
            return f"mapping of {key} to {type_words((values(node) or [{}])[0], model)}"
        case None:
            return "anything"
        case name:
            return FORMATS.get(node.get("format", ""), TYPES[name])


def values(node: Schema) -> list[Schema]:
    """What the entries of a list or mapping are."""
    several = [*node.get("prefixItems", ()), *node.get("patternProperties", {}).values()]
    return several + [node[key] for key in ("items", "additionalProperties") if isinstance(node.get(key), dict)]


def range_words(node: Schema) -> str:
    """What a value may be, and each of its entries; empty where everything of its type is right."""
    words = [_bounds(node)]
    if "prefixItems" not in node:  # the type says how many
        words += [_size(node.get(f"min{key}"), node.get(f"max{key}"), unit) for key, unit in SIZES.items()]
    words += map(range_words, node.get("anyOf", ()))
    words += [f"each {range_words(value)}" for value in values(node) if range_words(value)]
    return "; ".join(dict.fromkeys(filter(None, words)))


def one_line(text: str) -> str:
    return " ".join(text.split())


def _bounds(node: Schema) -> str:
    least, most = node.get("minimum"), node.get("maximum", UNBOUNDED)
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum", UNBOUNDED)
    if least is not None and most < UNBOUNDED:
        return f"{_number(least)} to {_number(most)}"
    words = [("at least", least), ("above", above), ("at most", most), ("below", below)]
    return ", ".join(f"{word} {_number(value)}" for word, value in words if value is not None and value < UNBOUNDED)


def _size(least: int | None, most: int | None, unit: str) -> str:
    if most is None:
        return "" if least is None else f"at least {_number(least)} {unit}"
    return f"{'at most' if least is None else f'{_number(least)} to'} {_number(most)} {unit}"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
