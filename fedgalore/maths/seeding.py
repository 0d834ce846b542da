"""One seed a purpose: every random choice hangs on the job's seed and the names of what it is for, never on order."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2^63) from the job's seed and a purpose such as ("batches", "hospital-a", 3)."""
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
