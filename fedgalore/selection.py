"""Which clients take part in a round: a pure function of names and seed, the same in simulation and coordinator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def choose_cohort(names: Iterable[str], size: int, seed: int, round_number: int) -> tuple[str, ...]:
    """A uniform sample of `size` clients, sorted by name; all of them when there are fewer.

    Each name gets a hash of (seed, round, name) and the smallest win. The choice does not depend on the order of
    `names`, and a client that joins or leaves changes at most one place of the sample.
    """

    def ticket(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{round_number}\0{name}".encode()).digest()

    return tuple(sorted(sorted(set(names), key=ticket)[:size]))
