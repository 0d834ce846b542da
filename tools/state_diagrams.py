"""The state diagrams of docs/ARCHITECTURE.md, drawn from the transition tables: `python -m tools.state_diagrams`.

A line of a Mermaid diagram names the events that may lead from one state to another. Events that leave a state as it is
are left out, and so are those that a state refuses. `--check` only compares the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from client_agent import session
from coordinator.state import job
from coordinator.state import round as rounds
from fedgalore.process.transitions import Transition
from tools.blocks import keep

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ARCHITECTURE.md"
COMMAND = "python -m tools.state_diagrams"
TABLES: dict[str, Mapping[Any, Transition[Any, Any]]] = {
    "job-states": job.TRANSITIONS,
    "round-states": rounds.TRANSITIONS,
    "session-states": session.TRANSITIONS,
}


def diagram(table: Mapping[tuple[Enum, type], Transition[Any, Any]]) -> str:
    """A Mermaid state diagram; it begins at the enum's first state and ends at states without a way on."""
    events: dict[tuple[Enum, Enum], list[str]] = {}
    for (state, event), row in table.items():
        for after in row.leads_to - {state}:
            events.setdefault((state, after), []).append(event.__name__)
    states = list(type(next(iter(table))[0]))
    moves = sorted(events, key=lambda move: [states.index(state) for state in move])
    lines = [f"[*] --> {states[0].name}"]
    lines += [f"{before.name} --> {after.name}: {', '.join(events[before, after])}" for before, after in moves]
    lines += [f"{state.name} --> [*]" for state in states if all(before is not state for before, _ in moves)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the page is stale")
    check = parser.parse_args(arguments).check
    return keep(PAGE, {name: diagram(table) for name, table in TABLES.items()}, COMMAND, check=check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
