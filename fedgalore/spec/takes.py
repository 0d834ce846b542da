"""What a field of a document takes, in words, as a JSON schema has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedgalore.spec.strict import IDENTIFIER

Schema = dict[str, Any]
MOST_KEYS = 12  # of a mapping, in one sentence
_FORMS = {
    IDENTIFIER: "a name of 1 to 63 letters, digits, '.', '_' or '-', of which the first is a letter or a digit",
}
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}


def takes(schema: Schema, root: Schema) -> str:
    """What may stand at this part of the schema `root`, such as "a whole number from 1 to 4096 or null"."""
    words: list[str] = []
    kinds = _kinds_of(schema, root)
    for each in branches(schema, root):
        match each:
            case {"const": value}:
                words.append(str(value))
            case {"enum": values}:
                words.append(either([str(value) for value in values]))
            case {"type": "string"}:
                words.append(_text(each))
            case {"type": "array"}:
                words.append(_list(each, root))
            case {"type": "object"} if len(kinds) > 1:
                words.append(f"a mapping whose key kind is {either(kinds)}")
            case {"type": "object"}:
                words.append(_mapping(each, root))
            case {"type": kind}:
                words.append(_KINDS.get(kind, str(kind)) + _bounds(each))
    null = ", or null" if "null" in words else ""
    return (either([word for word in dict.fromkeys(words) if word != "null"]) or "another value") + null


def _kinds_of(schema: Schema, root: Schema) -> list[str]:
    """The kinds of the mappings that may stand here, where their key `kind` tells them apart."""
    kinds = [each.get("properties", {}).get("kind", {}).get("const") for each in branches(schema, root)]
    return [kind for kind in kinds if kind is not None]


def branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The schemas of which a value has to fit one; null stands last."""
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        yield from branches(found, root)
    elif choices := schema.get("anyOf") or schema.get("oneOf"):
        common = {key: schema[key] for key in ("examples",) if key in schema}
        for choice in sorted(choices, key=lambda choice: choice.get("type") == "null"):
            yield from branches(choice | common, root)
    else:
        yield schema


def either(words: Sequence[str]) -> str:
    """The alternatives as a sentence lists them: "a, b or c"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _bounds(schema: Schema) -> str:
    """The limits of a number: " from 1 to 10", " above 0 and below 1"."""
    least, most = schema.get("minimum"), schema.get("maximum")
    below = schema.get("exclusiveMaximum")
    if schema["type"] == "integer" and below is not None:
        most, below = int(below) - 1, None
    if least is not None and most is not None:
        return f" from {_number(least)} to {_number(most)}"
    limits = {"of at least": least, "above": schema.get("exclusiveMinimum"), "at most": most, "below": below}
    words = " and ".join(f"{word} {_number(limit)}" for word, limit in limits.items() if limit is not None)
    return f" {words}" if words else ""


def _number(value: float) -> str:
    """A limit as people write it: no ".0" behind a whole number."""
    return str(int(value)) if value == int(value) else str(value)


def _text(schema: Schema) -> str:
    if schema.get("format") == "path":
        return "a path"
    if schema.get("pattern") in _FORMS:
        return _FORMS[schema["pattern"]]
    if examples := schema.get("examples"):
        return f"a text such as {either(examples)}"
    if "pattern" in schema:
        return f"a text that matches {schema['pattern']}"
    return f"a text{_length(schema, 'Length', 'characters')}"


def _list(schema: Schema, root: Schema) -> str:
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {takes(schema['prefixItems'][0], root)}"
    return f"a list{_length(schema, 'Items', 'items')}, each {takes(schema['items'], root)}"


def _mapping(schema: Schema, root: Schema) -> str:
    if keys := list(schema.get("properties", {})):
        shown = ", ".join(keys[:MOST_KEYS]) + (", ..." if len(keys) > MOST_KEYS else "")
        return f"a mapping with the keys {shown}" if len(keys) > 1 else f"a mapping with the key {shown}"
    values = [*schema.get("patternProperties", {}).values()] or [schema.get("additionalProperties")]
    each = f", each value {takes(values[0], root)}" if isinstance(values[0], dict) else ""
    return f"a mapping{_length(schema, 'Properties', 'keys')}{each}"


def _length(schema: Schema, of: str, what: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if least and most:
        return f" of {least} to {most} {what}"
    return f" of at least {least} {what}" if least else f" of at most {most} {what}" if most else ""
