"""What the engine hands to the doors beside jobs and rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from coordinator.state.job_state import Job
from coordinator.state.round_state import Round
from fedgalore.version import common_protocol


class Instance(NamedTuple):
    """Which agent speaks for a client: the id of its work folder, which outlives restarts, and of its process."""

    folder: str
    process: str

    @classmethod
    def parse(cls, text: str) -> Instance:
        """What an agent says of itself, `FOLDER/PROCESS`."""
        folder, _, process = text.partition("/")
        return cls(folder, process)


NOBODY = Instance("", "")


@dataclass(frozen=True)
class AgentRecord:
    """What a client said of itself when it registered. `datasets`: number of training examples by name.

    A client that was enrolled and has not registered yet has said nothing. `folder` and `process`: its `Instance`.
    """

    name: str
    datasets: dict[str, int]
    software_version: str
    registered_at: float
    protocol_version: int = 0  # 0: it has not said so yet
    folder: str = ""
    process: str = ""
    oldest_protocol_version: int = 0  # 0: it speaks `protocol_version` alone

    @property
    def is_understood(self) -> bool:
        """Whether it speaks a protocol version that this release speaks."""
        return common_protocol(self.protocol_version, self.oldest_protocol_version) is not None


@dataclass(frozen=True)
class OpenTask:
    """A task that a client has not done yet, by job and round."""

    job_id: str
    round: int


@dataclass(frozen=True)
class Waiting:
    """Ids of the jobs that wait for a client, oldest first: for a round's work, or for whether its data fit."""

    tasks: list[str]
    checks: list[str]


@dataclass(frozen=True)
class AgentStatus:
    """A registered client as it stands. `task`: what it has to do now, of the oldest job that waits for it.

    `teams`: those that it is given to, whose jobs alone ask it, beside jobs that belong to no team.
    """

    name: str
    datasets: dict[str, int]
    software_version: str
    registered_at: float
    protocol_version: int
    last_seen: float
    present: bool
    task: OpenTask | None
    teams: frozenset[str] = frozenset()


def of_team(team: str) -> frozenset[str] | None:
    """Whose clients a job of this team may ask: those of its team; None: all, for a job of no team."""
    return frozenset({team}) if team else None


@dataclass(frozen=True)
class RoundTask:
    """A round's work for one client."""

    job: Job
    round: Round
    remaining_s: float


@dataclass(frozen=True)
class CheckTask:
    """A job that asks a client whether its data fit; it names no file of the model."""

    job: Job
