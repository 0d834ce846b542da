"""Text that a person or a stranger wrote, as plain values: YAML or JSON, with nothing in it that could be meant twice.

YAML here has no aliases: a few lines of them can stand for more than any memory holds. Its truth values are `true` and
`false`, as in YAML 1.2: `no`, `on`, `=`, `<<` and `2024-01-31` are texts. So are `1:30` and `010`, which YAML 1.1 takes
for 90 and 8; `1e-3` is a number. Neither language may give a key twice, of which parsers keep the last in silence.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

LONGEST_NUMBER = 100  # characters; some take quadratic time, such as those that `!!int` reads to the base of 60
MOST_VALUES = 50_000  # in YAML, which is read at some 50,000 a second
_LONGEST_REASON = 400  # characters; what could not be read may be quoted in it


class DocumentError(ValueError):
    """Not a document; the message begins with `not valid YAML` or `not valid JSON` and says why."""


def read_yaml(text: str | bytes) -> Any:
    """A YAML document's value.

    Raises:
        DocumentError: it is not YAML, has an alias, a key twice, a tag of no plain value, or too much of anything.
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML lets out whatever it comes upon, such as a KeyError for `!!bool x`
        raise DocumentError(f"not valid YAML: {_reason(error)}") from None


def write_yaml(document: Any, **options: Any) -> str:
    """Plain values as YAML that `read_yaml` and parsers of YAML 1.1 read alike, keys in their order."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, **options))


def read_json(text: str | bytes) -> Any:
    """A JSON document's value.

    Raises:
        DocumentError: it is not JSON, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not valid JSON: {_reason(error)}") from None


def printable(text: str, longest: int) -> str:
    """What a stranger wrote, fit for a message: no control characters, and cut where it is long."""
    cut = text if len(text) <= longest else f"{text[:longest]}..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


class _Loader(yaml.SafeLoader):
    """Plain values only, each written out where it stands."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._values += 1
        problem = "aliases (*) are not read; write the value out" if self.check_event(yaml.AliasEvent) else ""
        if self._values > MOST_VALUES:
            problem = f"more than {MOST_VALUES} values; write it as JSON"
        if problem:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, problem, event.start_mark)
        node: Any = super().compose_node(parent, index)
        if node.tag not in _TAGS:
            named = f"the tag {printable(node.tag, 60)} is of no plain value; write the value out"
            raise ComposerError(None, None, named, node.start_mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConstructorError(None, None, _twice(key.value), key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > LONGEST_NUMBER:
            problem = f"a number of more than {LONGEST_NUMBER} characters; shorten it"
            raise ConstructorError(None, None, problem, node.start_mark)
        return super().construct_scalar(node)


_DIGITS, _EXPONENT = "(?:0|[1-9][0-9_]*)", "(?:[eE][-+]?[0-9]+)?"
_PLAIN = {
    "bool": ("(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (f"[-+]?(?:{_DIGITS}|0x[0-9a-fA-F_]+|0b[01_]+)$", "-+0123456789"),
    "float": (
        rf"(?:[-+]?(?:{_DIGITS}(?:\.[0-9_]*)?|\.[0-9][0-9_]*){_EXPONENT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
}
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in (*_PLAIN, "null", "str", "seq", "map")}
_OTHERWISE = {f"tag:yaml.org,2002:{kind}" for kind in (*_PLAIN, "timestamp", "merge", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, words) for tag, words in resolvers if tag not in _OTHERWISE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_words, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_words), list(_first))


class _Dumper(yaml.SafeDumper):
    """Puts texts in quotes that look like a number here or there."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_PLAIN["float"][0]), list(_PLAIN["float"][1]))


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python reads no number of thousands of digits
        raise ValueError(f"a number of {len(digits)} digits; shorten it") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(_twice(key))
        mapping[key] = value
    return mapping


def _twice(key: str) -> str:
    return f"the key {printable(key, 60)!r} is given twice; leave one out"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, words = error.problem_mark, " ".join(filter(None, (error.context, error.problem)))
        error = ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {words}")
    elif not isinstance(error, yaml.YAMLError | ValueError):
        error = ValueError(f"a value does not fit its tag ({error})")
    return printable(" ".join(f"{error}".split()) or type(error).__name__, _LONGEST_REASON)
