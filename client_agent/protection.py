"""Differential privacy that the agent gives its site: a section of its config, and what of jobs it cannot cover. Pure.

What noise is added, and why it holds: `fedgalore.site_noise`. What was spent is counted by the site's log, which has a
line for each release before its noise is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from client_agent import policy
from client_agent.policy import Refusal
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan
from fedgalore.spec.strict import Strict

NAME = "protection"
WITHHELD = "this site could not do its part; its own log has why, and its operator reads that"
WITHHELD_CODE = f"{NAME}.withheld"


def is_refusal(code: str) -> bool:
    """Whether the site's own settings forbid a task, which tells nothing of its data."""
    return code.startswith((f"{policy.NAME}.", f"{NAME}."))


def told(protection: Protection | None, words: str, code: str) -> tuple[str, str]:
    """What the coordinator hears of a failure, and its code: under protection, nothing that tells of the data."""
    if protection is None or is_refusal(code):
        return words, code
    return WITHHELD, WITHHELD_CODE


class Protection(Strict):
    """How the agent covers its updates, whatever the coordinator does with them."""

    clip_norm: float = Field(gt=0, le=1e6, description="Length that the change of each update is cut to")
    noise_multiplier: float = Field(
        gt=0, le=1e6, description="Noise on each number of the change, in clip_norms. More tells less and teaches less"
    )
    epsilon: float = Field(
        gt=0, le=1e6, description="What all updates that ever leave may come to together; then tasks are refused"
    )
    delta: float = Field(default=1e-5, gt=0, lt=0.1, description="Probability with which epsilon may not hold")
    metrics: bool = Field(
        default=False, description="Whether evaluations leave as well, without noise, which epsilon does not count"
    )


def of_job(protection: Protection | None, spec: JobSpec) -> Iterator[Refusal]:
    """What of a job cannot be covered."""
    if protection is None:
        return
    if not spec.method.told_by_parameters:
        more = "sends more than its parameters tell, which has no noise"
        yield _refusal("method", "method", f"{spec.method.kind} as it is set {more}", _METHODS)
    if spec.local.weight_decay:
        told = f"is {spec.local.weight_decay:g}: what it took is told without noise"
        yield _refusal("method", "local.weight_decay", told, "leave it out")
    if spec.local.weights != "float32":
        yield _refusal("method", "local.weights", f"{spec.local.weights} rounds noise away", "take float32")


def of_plan(protection: Protection | None, plan: TrainingPlan) -> Iterator[Refusal]:
    """What of a job's model cannot be covered."""
    if protection is not None and plan.buffers:
        held = f"has moving buffers, such as {plan.buffers[0].name}, which leave without noise"
        yield _refusal("method", "model.source", held, "take a model without")


def of_spent(protection: Protection | None, noise_multipliers: Sequence[float]) -> Iterator[Refusal]:
    """Whether another update would cost more than there is, after updates with these noises."""
    if protection is None:
        return
    from fedgalore.maths.privacy import epsilon_of_site  # with torch, and seconds at its first call

    after = epsilon_of_site([*noise_multipliers, protection.noise_multiplier], protection.delta)
    if not after <= protection.epsilon:
        spent = f"another update would make it {after:.4g}, and there is {protection.epsilon:g}"
        yield _refusal("epsilon", NAME, spent, "this site has given what it gives")


def of_evaluation(protection: Protection | None) -> Iterator[Refusal]:
    """Whether metrics may leave."""
    if protection is not None and not protection.metrics:
        yield _refusal("metrics", "evaluation", "metrics would leave this site without noise", "evaluate elsewhere")


_METHODS = "take fedavg, a LoRA method, or fedgalore with a complement and state_sync: reset or local"


def _refusal(rule: str, field: str, what: str, remedy: str) -> Refusal:
    return Refusal(f"{NAME}.{rule}", f"{field}: {what} ({NAME}.{rule} of this site); {remedy}")
