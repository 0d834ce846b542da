"""What sites say of their data and machines before a job's model is sent anywhere: the preflight check.

Every present agent that offers the job's data set is asked, and again whenever it registers anew: then its data may
have been mended. Only sites whose data fit are drawn into rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedgalore.sizing import SiteMemory
from fedgalore.spec.job import JobSpec

MOST_NAMED = 20  # sites in a reason
NO_TEMPLATE = (
    "data: the site holds conversations, and the model has no chat template, which gives them their form; take a "
    "model.source whose folder has a chat_template.jinja, or data of prompt and completion"
)


@dataclass(frozen=True)
class SiteFacts:
    """What a site found in its data and of its machine, numbers only.

    `examples` and `test_examples`: of its splits; `classes`: different labels; `longest`: characters of its longest
    text; 0 where examples have none; `conversations`: whether there are any. `memory_bytes`: what a job's model may
    take there, of the GPU where `on_gpu`; 0: unknown.
    """

    examples: int
    test_examples: int
    classes: int
    longest: int
    conversations: bool = False
    memory_bytes: int = 0
    on_gpu: bool = False


@dataclass(frozen=True)
class SiteCheck:
    """A site that was asked, and its answer once that has come. Times are seconds since the epoch."""

    registered_at: float  # of the agent that was asked
    answered_at: float | None = None
    problem: str | None = None  # why the site's data do not fit the job, or its policy forbids it
    facts: SiteFacts | None = None
    code: str | None = None  # of the problem, where the site gave one

    @property
    def fits(self) -> bool:
        return self.answered_at is not None and self.problem is None


Sites = Mapping[str, SiteCheck]


def unasked(sites: Sites, present: Mapping[str, float]) -> dict[str, SiteCheck]:
    """The checks that present agents still have to be asked for.

    Args:
        present: when the agents that offer the data registered, by client.
    """
    asked = {client: at for client, at in present.items() if client not in sites or sites[client].registered_at != at}
    return {client: SiteCheck(at) for client, at in asked.items()}


def misfits(sites: Sites) -> dict[str, str]:
    """Why sites do not fit, by client."""
    return {client: check.problem for client, check in sorted(sites.items()) if check.problem is not None}


def without_chat_template(sites: Sites) -> dict[str, SiteCheck]:
    """The checks for a model without a chat template: conversations have no form there, so they do not fit."""
    return {
        client: replace(check, problem=NO_TEMPLATE)
        if check.fits and check.facts is not None and check.facts.conversations
        else check
        for client, check in sites.items()
    }


def without_room(sites: Sites, spec: JobSpec, memory: SiteMemory) -> dict[str, SiteCheck]:
    """The checks for a model that takes so much: sites with less memory do not fit."""

    def seen(check: SiteCheck) -> SiteCheck:
        if not check.fits or check.facts is None or not check.facts.memory_bytes:
            return check
        facts = check.facts
        return replace(check, problem=memory.problem(spec, facts.longest, facts.memory_bytes, on_gpu=facts.on_gpu))

    return {client: seen(check) for client, check in sites.items()}


def too_few_fit(sites: Sites, present: Mapping[str, float], min_clients: int) -> str:
    """Why no round can be held with the agents that are present, in words; empty as long as one may yet be.

    Where nobody has said no, a job waits for more agents as ever.
    """
    checks = {client: sites[client] for client in present if client in sites}
    if len(checks) < len(present) or any(check.answered_at is None for check in checks.values()):
        return ""
    fitting, causes = sum(check.fits for check in checks.values()), misfits(checks)
    if not causes or fitting >= min_clients:
        return ""
    listed = [f"{client}: {problem}" for client, problem in list(causes.items())[:MOST_NAMED]]
    more = f"; and {len(causes) - MOST_NAMED} more" if len(causes) > MOST_NAMED else ""
    return (
        f"{fitting} of {len(checks)} present sites fit the job, and rounds.min_clients is {min_clients}: "
        f"{'; '.join(listed)}{more}. Mend that there, restart the agent and resume the job, or post a mended job"
    )
