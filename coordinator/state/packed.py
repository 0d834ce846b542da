"""Many numbers as one short text in stored state: most counts are nought, and a list of them would be long."""

from __future__ import annotations

import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer


def pack(numbers: Sequence[float]) -> str:
    """Numbers, as float64, in a text."""
    return b64encode(zlib.compress(array("d", numbers).tobytes())).decode()


def unpack(packed: str | Sequence[float]) -> tuple[float, ...]:
    """What `pack` was given, bit for bit; numbers stay as they are.

    Raises:
        ValueError: the text is something else.
    """
    if not isinstance(packed, str):
        return tuple(packed)
    try:
        return tuple(array("d", zlib.decompress(b64decode(packed))))
    except zlib.error as error:
        raise ValueError(f"packed numbers are damaged ({error})") from None


Packed = Annotated[tuple[float, ...], BeforeValidator(unpack), PlainSerializer(pack)]
