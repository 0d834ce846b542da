"""What keeps a job's rounds waiting as the agents stand."""

from __future__ import annotations

from coordinator.state.outlook import warnings
from coordinator.state.records import AgentStatus
from fedgalore import PROTOCOL_VERSION
from tests.builders import a_spec


def an_agent(name: str, *data: str, present: bool = True) -> AgentStatus:
    return AgentStatus(name, dict.fromkeys(data, 20), "0.1", 0.0, PROTOCOL_VERSION, 0.0, present, None)


def problems(*agents: AgentStatus) -> list[str]:
    return [f"{row['field']}: {row['problem']}" for row in warnings(a_spec(), agents)]


def test_nothing_is_said_where_enough_agents_offer_the_data() -> None:
    assert problems(an_agent("a", "reviews"), an_agent("b", "notes", "reviews")) == []


def test_who_is_missing_is_said() -> None:
    assert problems() == ["data.name: no agent is present, so nobody offers 'reviews'; start the agents that do"]
    assert "absent and offering it: a; start them" in problems(an_agent("a", "reviews", present=False))[0]
    few = problems(an_agent("a", "reviews"), an_agent("b", "notes"))
    assert few[0].startswith("rounds.min_clients: is 2, and 1 agent that is present offers 'reviews': a;")


def test_a_long_list_is_cut() -> None:
    (row,) = problems(*(an_agent(f"a{number}", f"data-{number:02}") for number in range(30)))
    assert "data-19 (1 agent) and 10 more" in row
    assert "data-20" not in row
