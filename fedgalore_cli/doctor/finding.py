"""What one look has found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """`told`: what was found; where it is not well, also what to do."""

    level: Level
    about: str
    told: str


Findings = Iterator[Finding]


def ok(about: str, told: str) -> Finding:
    return Finding(Level.OK, about, told)


def warn(about: str, told: str) -> Finding:
    return Finding(Level.WARN, about, told)


def fail(about: str, told: str) -> Finding:
    return Finding(Level.FAIL, about, told)
