"""Blobs are named by their content. Plain values, which pure modules may import."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_sha256(value: str) -> str:
    """The value, fit to become part of a path.

    Raises:
        ValueError: it is not 64 lower-case hexadecimal digits.
    """
    if not SHA256.fullmatch(value):
        raise ValueError(f"{value[:64]!r} is no SHA-256, which is 64 lower-case hexadecimal digits")
    return value


@dataclass(frozen=True)
class BlobRef:
    """A file by its content.

    Raises:
        ValueError: `sha256` is not 64 lower-case hexadecimal digits.
    """

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        checked_sha256(self.sha256)
