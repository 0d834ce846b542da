"""Names of classes: which are one and the same, and what a document may give as one."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


def normal_form(name: str) -> str:
    """A name as it is compared: in Unicode's form NFC, without outer white space."""
    return unicodedata.normalize("NFC", name).strip()


def check_texts(names: Any) -> Any:
    """Hands on a document's list of names, if it is one.

    YAML reads some words without quotes as other values: `true`, `1.0`, `null`, and nothing at all.

    Raises:
        ValueError: a name is no text.
    """
    for position, name in enumerate(names if isinstance(names, list | tuple) else (), start=1):
        if not isinstance(name, str):
            raise ValueError(f"name {position} was read as {_value(name)}, not as text; put it in quotes")
    return names


def check_different(names: Sequence[str]) -> None:
    """Refuses names that data could not tell apart.

    Raises:
        ValueError: fewer than two names, an empty one, or two that are equal in their `normal_form`.
    """
    if len(names) < 2:
        raise ValueError("label_names needs at least two different names")
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not normal_form(name):
            raise ValueError(f"label_names: name {position} is empty; no example could have it")
        first = seen.setdefault(normal_form(name), position)
        if first != position:
            raise ValueError(
                f"label_names needs different names, and names {first} and {position} are both {name!r} to a reader; "
                "rename one or leave it out"
            )


def _value(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    kinds = {bool: "the truth value", int: "the number", float: "the number", list: "the list", dict: "the mapping"}
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{kinds.get(type(value), f'a {type(value).__name__},')} {text[:60]}"
