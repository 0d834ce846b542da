"""What people write on a job to find it again: tags and a description. Training does not look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

MAX_TAGS = 32  # of a job
MAX_DESCRIPTION = 2000  # characters
TAG = r"^[A-Za-z0-9][A-Za-z0-9._:/=@+-]{0,62}$"

Tag = Annotated[str, Field(pattern=TAG, examples=["nightly", "team:cardiology"])]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS)]
# Line breaks and tabs, and otherwise what can be seen: no letter may steer a terminal.
Description = Annotated[
    str,
    Field(
        max_length=MAX_DESCRIPTION, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]*$"
    ),
]


@dataclass(frozen=True)
class Labels:
    """`tags`: each once, in the order of the alphabet."""

    tags: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(sorted(set(self.tags))))


NONE = Labels()
