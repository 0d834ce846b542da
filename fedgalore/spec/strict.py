"""What every document of a user shares: unknown keys are refused, and values of another kind than a field asks for."""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from fedgalore.spec.documents import printable

IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]

Text = Annotated[str, Field(max_length=500)]  # of many in a document, such as names of classes or modules
MANY = 2**53  # counts beyond it are no exact numbers everywhere


class Strict(BaseModel):
    """Refuses unknown keys, infinities, later changes, and values of another kind than asked for.

    A truth value or a text is no number, not even `"2"`, and a number is neither. A whole number may be written as 2.0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        annotation: Any = cls.model_fields[str(info.field_name)].annotation
        kinds = _kinds(annotation)
        if kinds <= _PLAIN and (odd := [item for item in _items(value) if not _fits(item, kinds)]):
            raise ValueError(_refusal(odd[0], kinds))
        return value


_PLAIN = {bool, int, float, str, NoneType}


@cache
def _kinds(annotation: Any) -> frozenset[type]:
    """The types of a field's values: those in lists, and those of mappings without their keys."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin is Literal:
        return frozenset(map(type, arguments))
    if arguments:
        inner = arguments[1:] if origin is dict else arguments
        return frozenset().union(*(_kinds(argument) for argument in inner if argument is not ...))
    return frozenset({annotation})


def _items(value: Any) -> list[Any]:
    """The truth values, numbers and texts in a field's value."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, bool | int | float | str)]


def _fits(value: Any, kinds: frozenset[type]) -> bool:
    if isinstance(value, bool | str):
        return type(value) in kinds
    return bool(kinds & {int, float})


def _refusal(value: Any, kinds: frozenset[type]) -> str:
    found = "text" if isinstance(value, str) else "a truth value" if isinstance(value, bool) else "a number"
    shown = str(value).lower() if isinstance(value, bool) else printable(repr(value), 60)
    if kinds & {int, float}:
        unquoted = ", without quotes" if isinstance(value, str) else ""
        return f"{shown} is {found}; write a number in digits{unquoted}"
    if bool in kinds:
        return f"{shown} is {found}; write true or false{', without quotes' if isinstance(value, str) else ''}"
    return f"{shown} is {found}; put it in quotes"
