"""Which clients take part in a round: a pure function of names and seed, the same in simulation and coordinator."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable


def choose_cohort(
    names: Iterable[str], size: int, seed: int, version: int, tries: int = 0, last: Collection[str] = ()
) -> tuple[str, ...]:
    """A uniform sample of `size` clients, sorted by name; all of them when there are fewer.

    Each name gets a hash of (seed, version, tries, name) and the smallest win. The choice does not depend on the order
    of `names`, and a client that joins or leaves changes at most one place of the sample.

    Args:
        version: the model version that the round is to make.
        tries: rounds that were to make it before, and were abandoned.
        last: clients that are taken only where the others are too few.
    """
    drawn = f"{seed}\0{version}.{tries}" if tries else f"{seed}\0{version}"

    def ticket(name: str) -> tuple[bool, bytes]:
        return name in last, hashlib.sha256(f"{drawn}\0{name}".encode()).digest()

    return tuple(sorted(sorted(set(names), key=ticket)[:size]))
