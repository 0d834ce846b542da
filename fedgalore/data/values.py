"""What a value of a data set says by itself, however it is written: a number, a truth value, a list, or nothing."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Hashable
from decimal import Decimal
from typing import Any

import numpy as np

from fedgalore.spec.names import normal_form

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,80}(?:\.[0-9]{0,80})?|\.[0-9]{1,80})(?:[eE][+-]?[0-9]{1,3})?")
_TRUTH = {"true": True, "false": False}
_INVISIBLE = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Mn", "Mc", "Me"})  # Unicode's categories


def as_python(value: Any) -> Any:
    """A scalar of numpy as Python has it: `float32(0.1)` is 0.1, the shortest number that it stands for."""
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def as_number(value: Any) -> Decimal | None:
    """A number, or the text of one in digits: exactly as it is written. None for anything else, truth values too."""
    value = as_python(value)
    if isinstance(value, str):
        text = value.strip()
        return Decimal(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, int):
        return Decimal(value)
    return Decimal(repr(value) if isinstance(value, float) else value) if math.isfinite(value) else None


def as_truth(value: Any) -> bool | None:
    """True or false, or the text of it in letters of any case; None for anything else, numbers too."""
    value = as_python(value)
    if isinstance(value, str):
        return _TRUTH.get(value.strip().casefold())
    return value if isinstance(value, bool) else None


def as_list(value: Any) -> list[Any] | None:
    """A list, or the JSON text of one, as a CSV file has it; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return list(value) if isinstance(value, list | tuple) else None


def is_readable(text: str) -> bool:
    """Whether a text has more than what tokenizers drop: blanks, control and invisible characters, lone accents."""
    return any(character != "\ufffd" and unicodedata.category(character) not in _INVISIBLE for character in text)


def key(value: Any) -> Hashable:
    """What is equal for values that mean the same, as far as this shows without a job: `4`, `4.0`, `"4"` and `"4.0"`.

    A whole number is an int, a list a tuple, anything else a text.
    """
    listed = as_list(value)
    if listed is not None:
        return tuple(map(key, listed))
    truth = as_truth(value)
    if truth is not None:
        return str(truth).lower()
    number = as_number(value)
    if number is None:
        return normal_form(str(value))
    return int(number) if number == number.to_integral_value() else str(number.normalize())
