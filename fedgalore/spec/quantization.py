"""How a tensor travels in few bits an entry: what a file's reader has to know of it. Without torch: the doors read it.

The bytes themselves are those of `fedgalore.maths.quantization`, which has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

BLOCK = 64  # entries that share a scale
FACTOR_BYTES = 4
HALF_BYTES = 2


@dataclass(frozen=True)
class Quantization:
    """A float32 tensor of `shape` in `bits` an entry, 4, 8 or 16; its blocks run along `axis`, -1 or -2.

    `signed`: False for the square roots of second moments, which are never negative.
    """

    shape: tuple[int, ...]
    bits: int
    axis: int = -1
    signed: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise ValueError(f"bits: {self.bits}; use 4, 8 or 16")
        if self.axis != -1 and not (self.axis == -2 and len(self.shape) == 2):
            raise ValueError(
                f"axis: {self.axis} of a tensor of {len(self.shape)} dimensions; use -1, or -2 of a matrix"
            )

    @property
    def halves(self) -> int:
        """Float16 numbers behind the factor: a scale a block, or at 16 bits the entries themselves."""
        entries = prod(self.shape)
        return entries if self.bits == 16 else -(-entries // BLOCK)

    @property
    def codes_at(self) -> int:
        """Bytes before the codes."""
        return FACTOR_BYTES + HALF_BYTES * self.halves

    @property
    def size_bytes(self) -> int:
        return self.codes_at + (0 if self.bits == 16 else self.halves * BLOCK * self.bits // 8)

    @property
    def largest_code(self) -> int:
        """What a scale, or an entry at 16 bits, is multiplied by at most."""
        if self.bits == 16:
            return 1
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def has_signed_halves(self) -> bool:
        """Whether a float16 number may be below 0; scales and roots may not."""
        return self.bits == 16 and self.signed
