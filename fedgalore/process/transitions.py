"""One row of a table of transitions: what handles an event in a state, and the states that it may lead to.

The tables of the job, the round and the agent's session are plain mappings from (state, type of event) to such a row,
so that a script can draw them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

HandlerT = TypeVar("HandlerT")
StateT = TypeVar("StateT", bound=Enum)


class UndeclaredTransition(AssertionError):
    """A handler led to a state that its row does not name: a fault of this program, whatever the event was."""


@dataclass(frozen=True)
class Transition(Generic[HandlerT, StateT]):
    """`leads_to` names every possible state afterwards, the unchanged one included; none: the event is refused."""

    handler: HandlerT
    leads_to: frozenset[StateT]

    def check(self, before: StateT, event: object, after: StateT) -> None:
        """Raises `UndeclaredTransition` unless the row names the state afterwards."""
        if after not in self.leads_to:
            named = ", ".join(sorted(state.name for state in self.leads_to)) or "nowhere"
            raise UndeclaredTransition(
                f"{type(event).__name__} led from {before.name} to {after.name}, but its row leads to {named}"
            )


def to(handler: HandlerT, *states: StateT) -> Transition[HandlerT, StateT]:
    """A row of a table."""
    return Transition(handler, frozenset(states))
