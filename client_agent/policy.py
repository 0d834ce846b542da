"""What a site lets jobs do: a section of the agent's config, checked before anything is loaded or fetched. Pure.

The rules hold for every task of a job: the preflight check, each round, each evaluation, an update that lies ready.
`of_job` goes by the document and the site's data alone, `of_task` by what a task brings beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from client_agent.errors import SiteRefuses
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan
from fedgalore.spec.rates import highest_rates
from fedgalore.spec.registry import methods
from fedgalore.spec.strict import MANY, Strict, Text

NAME = "policy"
# Least of a batch whose directions an update shows more than others': a part of `least_examples`, or what hides them.
PARTS, FEW = 4, 8
_TABLES = ("embeddings", "output")  # of `method.train_also`: a row of them for each token of the vocabulary


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"[{pair[0]:g}, {pair[1]:g}] ends below its start; give the lower number first")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._*?-]{1,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Policy(Strict):
    """What jobs may do at this site. As it stands, no update tells of a few examples alone."""

    data: tuple[Pattern, ...] = Field(
        default=("*",), description="Data sets that jobs may use, by name or pattern such as notes-*"
    )
    methods: tuple[Text, ...] | None = Field(default=None, description="Values of method.kind; null: all")
    base_models: tuple[Sha256, ...] | None = Field(
        default=None,
        description="Hashes of base models, as `fedgalore agent --check JOB` prints them; null: all",
    )
    least_examples: int = Field(
        default=32,
        ge=1,
        le=MANY,
        description="Examples that an update averages over: local.steps x local.batch_size, and no more than the data "
        "set has. Of fedgalore, whose bases are of one batch each, a batch has a quarter of them or 8, and with "
        "complement below 1 all. Micro-batches change nothing: their gradients leave as one sum",
    )
    least_evaluation_examples: int = Field(
        default=16, ge=1, le=MANY, description="Examples that an evaluation averages over"
    )
    learning_rate: Range = Field(
        default=(0.0, 0.1), description="Both learning rates, named by the job or found from its model"
    )
    beta1: Range = Field(default=(0.5, 0.999), description="The first of local.betas")
    beta2: Range = Field(default=(0.9, 0.99999), description="The second: what is below it lets the last step decide")
    eps: Range = Field(default=(1e-12, 1e-5), description="local.eps: a great one shows the size of gradients")
    max_grad_norm: Range = Field(
        default=(1e-2, 1e9),
        description="local.max_grad_norm, where it is named: one near eps shows gradients, as a great eps does",
    )
    weight_decay: Range = Field(default=(0.0, 1.0), description="local.weight_decay")
    scale: Range = Field(default=(0.0, 64.0), description="scale and complement of a method, where it has them")
    most_class_weight: float = Field(
        default=100.0,
        ge=1,
        description="How many times another's a class's weight in local.class_weights may be: with more, the examples "
        "of one class decide alone",
    )
    least_clients: int = Field(
        default=2, ge=1, le=10_000, description="Clients that a round is made of, by its job and as it was drawn"
    )
    most_rounds_a_day: int | None = Field(
        default=1000,
        ge=1,
        le=MANY,
        description="Rounds of all jobs together from which losses, an update or an evaluation leave in any 24 hours; "
        "null: any number",
    )
    least_noise: float | None = Field(
        default=None,
        gt=0,
        description="A job's privacy.noise_multiplier, so that jobs without privacy are refused; null: none is asked",
    )
    token_tables: bool = Field(
        default=True,
        description="Whether embeddings and the output layer of a language model may be trained: their changes show "
        "which tokens this site's texts hold, however many examples are averaged",
    )
    generates: bool = Field(
        default=True, description="Whether the model may write answers to this site's prompts, to be judged here"
    )


class Refusal(NamedTuple):
    """A rule that a job breaks: its code for machines, and a sentence with field, value and remedy."""

    code: str
    words: str


@dataclass(frozen=True)
class Holdings:
    """How many examples a site has for a job: to train on, and to evaluate on (None: no such split).

    `imbalance`: how many times another's the weight of a class is where all of them count alike.
    """

    examples: int
    held_out: int | None
    imbalance: float = 1.0


def of_job(policy: Policy, spec: JobSpec, has: Holdings) -> Iterator[Refusal]:
    """The rules that a job's document breaks at a site with so many examples."""
    yield from _of_names(policy, spec)
    yield from _of_averages(policy, spec, has)
    yield from _of_ranges(policy, spec, _named_rates(spec))
    yield from _of_classes(policy, spec, has.imbalance)
    if (least := policy.least_clients) > (clients := spec.rounds.min_clients):
        yield _refusal("least_clients", "rounds.min_clients", f"is {clients}, and has to be at least {least}")
    noise = spec.privacy.noise_multiplier if spec.privacy else None
    if policy.least_noise is not None and (noise or 0.0) < policy.least_noise:
        is_now = "there is no privacy" if noise is None else f"is {noise:g}"
        yield _refusal("least_noise", "privacy.noise_multiplier", f"{is_now}, and has to be {policy.least_noise:g}")
    if not policy.generates and spec.evaluation.generates:
        metrics = "evaluation.exact_match or a metric of answers is asked for"
        yield _refusal("generates", "evaluation", f"{metrics}, and the model may write no answers here")
    if not policy.token_tables and (tables := [*_tables_of(spec)]):
        yield _refusal("token_tables", tables[0], "trains what has a row for each token, which may not leave")


def of_evaluation(policy: Policy, spec: JobSpec, has: Holdings) -> Iterator[Refusal]:
    """The rule that measuring a model breaks at a site with so many examples; the site may train all the same."""
    evaluated, most = has.held_out, spec.evaluation.max_examples
    if evaluated is not None and most is not None:
        evaluated = min(evaluated, most)
    if evaluated is not None and evaluated < policy.least_evaluation_examples:
        field = "evaluation.max_examples" if most == evaluated else f"data.{spec.data.name}"
        few = f"an evaluation has {evaluated} examples here, and has to have {policy.least_evaluation_examples}"
        yield _refusal("least_evaluation_examples", field, few)


def of_task(
    policy: Policy, spec: JobSpec, plan: TrainingPlan, base_model: str | None, participants: int | None
) -> Iterator[Refusal]:
    """The rules that a task breaks by what it brings beside the document.

    Args:
        plan: whose numbers the learning rates of a job that names none come from.
        base_model: the hash of the base model's files; None: nobody knows it yet.
        participants: clients of a round of training; None: of an evaluation, whose numbers are told one by one anyway.
    """
    yield from _of_range(policy.learning_rate, "learning_rate", _rates(spec, plan))
    if policy.base_models is not None and base_model is not None and base_model not in policy.base_models:
        yield _refusal("base_models", "model.source", f"has the hash {base_model}, which is not listed")
    if participants is not None and participants < policy.least_clients:
        drawn = f"{participants} were drawn into this round, and it has to be at least {policy.least_clients}"
        yield _refusal("least_clients", "rounds.min_clients", drawn)
    if not policy.token_tables and plan.census.trained.get("embedding"):
        yield _refusal("token_tables", "method.target_modules", "trains embeddings, which may not leave")


def of_day(policy: Policy, rounds: int) -> Iterator[Refusal]:
    """The rule that a round breaks after so many others in the last 24 hours."""
    if policy.most_rounds_a_day is not None and rounds >= policy.most_rounds_a_day:
        done = f"{rounds} were done here in the last 24 hours, and there may be {policy.most_rounds_a_day}"
        yield _refusal("most_rounds_a_day", "rounds", done)


def refuse(refusals: Iterable[Refusal]) -> None:
    """Raises `SiteRefuses` where there are any: with the words of all, and the code of the first."""
    if found := [*refusals]:
        raise SiteRefuses(found[0].code, "; ".join(refusal.words for refusal in found))


def _of_names(policy: Policy, spec: JobSpec) -> Iterator[Refusal]:
    if not any(fnmatchcase(spec.data.name, pattern) for pattern in policy.data):
        yield _refusal("data", "data.name", f"is {spec.data.name}, which jobs may not use")
    if policy.methods is not None and spec.method.kind not in policy.methods:
        allowed = " or ".join(policy.methods) or "none"
        yield _refusal("methods", "method.kind", f"is {spec.method.kind}, and has to be {allowed}")


def _of_averages(policy: Policy, spec: JobSpec, has: Holdings) -> Iterator[Refusal]:
    local, least = spec.local, policy.least_examples
    if spec.method.tells_single_batches:
        if local.batch_size < least:
            told = f"is {local.batch_size}, and updates of this method, as it is set, tell of each batch alone"
            yield _refusal("least_examples", "local.batch_size", f"{told}; it has to be at least {least}")
    elif (averaged := local.steps * local.batch_size) < least:
        field, product = "local.steps", f"{local.steps} x local.batch_size {local.batch_size} is {averaged}"
        yield _refusal("least_examples", field, f"{product} examples an update, and has to be at least {least}")
    elif spec.method.favours_a_batch and local.batch_size < (wanted := min(FEW, ceil(least / PARTS))):
        told = f"is {local.batch_size}, and updates of this method show the batch that a basis is drawn from most"
        yield _refusal("least_examples", "local.batch_size", f"{told}; it has to be at least {wanted}")
    if has.examples < least:
        few = f"has {has.examples} training examples here, and has to have at least {least}"
        yield _refusal("least_examples", f"data.{spec.data.name}", few)


def _of_ranges(policy: Policy, spec: JobSpec, rates: Sequence[tuple[str, float]]) -> Iterator[Refusal]:
    local, method = spec.local, spec.method
    yield from _of_range(policy.learning_rate, "learning_rate", rates)
    yield from _of_range(policy.beta1, "beta1", [("local.betas", local.betas[0])])
    yield from _of_range(policy.beta2, "beta2", [("local.betas", local.betas[1])])
    yield from _of_range(policy.eps, "eps", [("local.eps", local.eps)])
    if local.max_grad_norm is not None:
        yield from _of_range(policy.max_grad_norm, "max_grad_norm", [("local.max_grad_norm", local.max_grad_norm)])
    yield from _of_range(policy.weight_decay, "weight_decay", [("local.weight_decay", local.weight_decay)])
    scales = [(f"method.{name}", getattr(method, name, None)) for name in ("scale", "complement")]
    yield from _of_range(policy.scale, "scale", [(field, value) for field, value in scales if value is not None])


def _of_classes(policy: Policy, spec: JobSpec, imbalance: float) -> Iterator[Refusal]:
    weights, most = spec.local.class_weights, policy.most_class_weight
    times = max(weights) / min(weights) if isinstance(weights, tuple) else imbalance if weights else 1.0
    if times > most:
        told = f"one is more than {most:g} times another here"  # how much more, the site keeps to itself
        yield _refusal("most_class_weight", "local.class_weights", told)


def _of_range(allowed: Range, rule: str, given: Sequence[tuple[str, float]]) -> Iterator[Refusal]:
    low, high = allowed
    for field, value in given:
        if not low <= value <= high:
            yield _refusal(rule, field, f"{value:g} lies outside of {low:g} to {high:g}")


def _named_rates(spec: JobSpec) -> list[tuple[str, float]]:
    rates = {"learning_rate": spec.local.learning_rate, "head_learning_rate": spec.local.head_learning_rate}
    return [(f"local.{name}", rate) for name, rate in rates.items() if rate is not None]


def _rates(spec: JobSpec, plan: TrainingPlan) -> list[tuple[str, float]]:
    """Those that hold; none of a plan that nobody can train by, since it lacks the size of its matrices."""
    if spec.local.learning_rate is None and plan.size is None:
        return []
    rates = highest_rates(spec, plan)
    return [("local.learning_rate", rates.targets), ("local.head_learning_rate", rates.head)]


def _tables_of(spec: JobSpec) -> Iterator[str]:
    """Fields by which a job trains tables of tokens."""
    if methods()[spec.method.kind].trains == "everything":
        yield "method.kind"
    if any(each in _TABLES for each in spec.method.train_also):
        yield "method.train_also"


def _refusal(rule: str, field: str, what: str) -> Refusal:
    remedy = f"change that in the job, or ask this site's operator to change {NAME}.{rule}"
    return Refusal(f"{NAME}.{rule}", f"{field}: {what} ({NAME}.{rule} of this site); {remedy}")
