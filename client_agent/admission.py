"""Whether this site takes part: its policy and its protection against a job, and against each task of it.

Each call raises `SiteRefuses` with the rules that are broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from client_agent import policy, protection
from client_agent.cache import hash_of_files
from client_agent.data import LocalData
from client_agent.policy import refuse
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan

if TYPE_CHECKING:
    from client_agent.settings import AgentSettings
    from client_agent.site_log import SiteLog


def check_job(spec: JobSpec, data: LocalData, settings: AgentSettings) -> None:
    """By the document and the site's data alone."""
    refuse(policy.of_job(settings.policy, spec, data.holdings(spec)))
    refuse(protection.of_job(settings.protection, spec))


def check_model(
    spec: JobSpec,
    plan: TrainingPlan,
    base_model: Mapping[str, BlobRef],
    participants: int | None,
    settings: AgentSettings,
) -> None:
    """By what a task brings beside them.

    Args:
        participants: clients of a round of training; None: of an evaluation.
    """
    refuse(policy.of_task(settings.policy, spec, plan, hash_of_files(base_model), participants))
    refuse(protection.of_plan(settings.protection, plan))


def check_spent(settings: AgentSettings, log: SiteLog) -> None:
    """Whether noise is left for another update."""
    refuse(protection.of_spent(settings.protection, log.noise_multipliers()))


def check_round(settings: AgentSettings, rounds_of_a_day: int) -> None:
    """Whether another round may be done today, be it an evaluation alone."""
    refuse(policy.of_day(settings.policy, rounds_of_a_day))


def check_evaluation(spec: JobSpec, data: LocalData, settings: AgentSettings) -> None:
    """Whether metrics may leave."""
    refuse(policy.of_evaluation(settings.policy, spec, data.holdings(spec)))
    refuse(protection.of_evaluation(settings.protection))
