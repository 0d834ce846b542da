"""What can happen to a job: plain values. What they do to it: `coordinator.state.job`."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.state.job_state import Prepared
from coordinator.state.round_state import ModelVersion, RoundEvent, Tick
from coordinator.state.sites import SiteFacts
from fedgalore.process.blob_ref import BlobRef


@dataclass(frozen=True)
class PreparedModel:
    prepared: Prepared


@dataclass(frozen=True)
class PreparationFailed:
    reason: str


@dataclass(frozen=True)
class SitesSeen:
    """The agents that are present and offer the data, with the times of their registration; `missing`: why none is."""

    present: dict[str, float]
    missing: str = ""


@dataclass(frozen=True)
class SiteChecked:
    """A site's answer: whether its data fit the job, and if not, why; `code` is for machines."""

    client: str
    problem: str | None
    facts: SiteFacts | None
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class ByPerson:
    """What a person wants. `by`: the name of the API key; empty where nobody was asked for one."""

    by: str = ""


@dataclass(frozen=True)
class Pause(ByPerson):
    pass


@dataclass(frozen=True)
class Resume(ByPerson):
    pass


@dataclass(frozen=True)
class Cancel(ByPerson):
    pass


@dataclass(frozen=True)
class RollBack(ByPerson):
    """Training is to go on from this version, which there was before."""

    model: ModelVersion


@dataclass(frozen=True)
class Describe(ByPerson):
    """Tags and description are to be these; None: as they are."""

    tags: tuple[str, ...] | None = None
    description: str | None = None


@dataclass(frozen=True)
class InRound:
    """Something that happened to round `number`."""

    number: int
    event: RoundEvent


@dataclass(frozen=True)
class LoadedBack:
    """Version `version`, the final one, was loaded as a user would load it.

    `difference`: what tells it from the trained one; `unchecked`: why nobody knows.
    """

    version: int
    difference: str | None = None
    unchecked: str | None = None


@dataclass(frozen=True)
class AggregationFailed:
    """`lost`: by what the coordinator itself has lost, so that another try would be in vain.

    `dropped`: clients whose updates cannot be taken, each with the reason.
    """

    number: int
    reason: str
    lost: bool = False
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsWanted:
    """Somebody asks for the whole weights of a version that has none."""

    version: int


@dataclass(frozen=True)
class WeightsMade:
    """The whole weights of a version that had none."""

    version: int
    weights: BlobRef


@dataclass(frozen=True)
class WeightsLost:
    """The whole weights of a version cannot be made."""

    version: int
    reason: str


JobEvent = (
    PreparedModel
    | PreparationFailed
    | SitesSeen
    | SiteChecked
    | Pause
    | Resume
    | Cancel
    | RollBack
    | Describe
    | InRound
    | AggregationFailed
    | LoadedBack
    | WeightsWanted
    | WeightsMade
    | WeightsLost
    | Tick
)
