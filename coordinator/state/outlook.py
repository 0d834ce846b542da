"""What a job has to expect of the agents as they stand, before any of them is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from coordinator.state.records import AgentStatus
from fedgalore.spec.job import JobSpec

MOST_NAMED = 20


def warnings(spec: JobSpec, agents: Iterable[AgentStatus]) -> list[dict[str, str]]:
    """A `{field, problem}` row for each thing that keeps the job's rounds waiting as long as the agents stand so."""
    everybody = list(agents)
    wanted, needed = spec.data.name, spec.rounds.min_clients
    present = [agent for agent in everybody if agent.present]
    offering = [agent.name for agent in present if wanted in agent.datasets]
    if not offering:
        return [{"field": "data.name", "problem": nobody(wanted, everybody)}]
    if len(offering) < needed:
        have = "1 agent that is present offers" if len(offering) == 1 else f"{len(offering)} present agents offer"
        problem = f"is {needed}, and {have} {wanted!r}: {_named(offering)}; rounds wait until {needed} do, or lower it"
        return [{"field": "rounds.min_clients", "problem": problem}]
    return []


def nobody(wanted: str, agents: list[AgentStatus]) -> str:
    """Why nobody has the data set, and what is to be had."""
    if absent := [agent.name for agent in agents if wanted in agent.datasets]:
        return f"no agent that is present offers {wanted!r}; absent and offering it: {_named(absent)}; start them"
    offers = Counter(name for agent in agents if agent.present for name in agent.datasets)
    if not offers:
        return f"no agent is present, so nobody offers {wanted!r}; start the agents that do"
    shown = _named([f"{name} ({count} agent{'s' if count > 1 else ''})" for name, count in sorted(offers.items())])
    return f"nobody offers {wanted!r}; offered are {shown}; correct the name, or start agents that offer {wanted!r}"


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
