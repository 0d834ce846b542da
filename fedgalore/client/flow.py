"""What a client does, said once for the sync and the async one: generators that yield what is to be done next.

A flow yields `Ask`, and is sent the JSON of the answer, or has the error thrown into it; or it yields `Pause`. What it
returns is the result. It neither sends nor sleeps itself.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A request. `timeout_s`: for this request alone; `takes`: statuses beside success whose body is an answer."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    takes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pause:
    """Nothing is to be done for so many seconds."""

    seconds: float


Flow = Generator[Ask | Pause, Any, T]
