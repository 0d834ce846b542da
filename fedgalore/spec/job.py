"""The job document: what a user posts, validated once and read everywhere.

Pure pydantic: the coordinator's doors, the agents and the simulation all parse jobs with `JobSpec`, so the three
cannot disagree about a default. Unknown keys are refused. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

from functools import reduce
from math import ceil
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from fedgalore.spec.documents import DocumentError, printable, read_json, read_yaml
from fedgalore.spec.method import MethodSpec
from fedgalore.spec.registry import broken, methods, summing_kinds
from fedgalore.spec.server import PrivacySpec, ServerSpec
from fedgalore.spec.strict import MANY, Identifier, Strict, Text

MOST_ROWS = 50  # of what is wrong with one document
DEFAULT_KIND = "fedgalore"


class ModelSpec(Strict):
    source: str = Field(
        min_length=1,
        max_length=4096,
        description="The base model: a folder that the coordinator can read, or a name on the Hugging Face hub",
    )
    task: Literal["sequence-classification", "causal-lm", "image-classification"] = Field(
        default="sequence-classification",
        description="What the model does: it classifies texts or images, or it writes text (causal-lm)",
    )
    num_labels: int | None = Field(
        default=None,
        ge=2,
        le=100_000,
        description="Number of classes. Classification needs it, unless label_names lists the classes",
    )
    label_names: tuple[Text, ...] | None = Field(
        default=None,
        max_length=100_000,
        description="Class names in the order of their index. The data may then hold names in place of numbers",
    )

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> ModelSpec:
        if self.task == "causal-lm":
            if self.num_labels is not None or self.label_names is not None:
                raise ValueError(
                    "num_labels and label_names belong to task: sequence-classification or image-classification; "
                    "leave them out"
                )
            return self
        if self.num_labels is None and self.label_names is None:
            raise ValueError(f"num_labels is needed for task: {self.task}")
        if self.label_names is not None:
            if len(self.label_names) < 2 or len(set(self.label_names)) != len(self.label_names):
                raise ValueError("label_names needs at least two different names")
            if self.num_labels is not None and self.num_labels != len(self.label_names):
                raise ValueError(f"num_labels is {self.num_labels} but label_names has {len(self.label_names)} names")
        return self

    @property
    def labels(self) -> int:
        """Number of classes; 0 for a language model."""
        return len(self.label_names) if self.label_names else (self.num_labels or 0)


class DataSpec(Strict):
    name: Identifier = Field(
        description="Name of the data set. The config of each agent maps it to files of that site, which never leave it"
    )
    max_length: int = Field(
        default=128,
        ge=2,
        le=32_768,
        description="Longest text, in tokens; the rest is cut. Longer texts cost time and memory at the sites",
    )


class RoundsSpec(Strict):
    count: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Rounds to complete; each gives one new version of the model. Abandoned rounds do not count",
    )
    min_clients: int = Field(
        default=2,
        ge=1,
        le=10_000,
        description="Updates that a round needs. With fewer at its deadline the round is abandoned and another begins",
    )
    goal_clients: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Updates that end a round before its deadline; null: as many as min_clients",
    )
    over_selection: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="Clients to select, as a multiple of goal_clients. With 1.3 a round need not wait for the slowest",
    )
    deadline_s: float = Field(
        default=600,
        gt=0,
        le=604_800,
        description="Seconds from the selection of the clients until the round ends with the updates that are there",
    )
    selection_wait_s: float = Field(
        default=30,
        ge=0,
        le=86_400,
        description="Seconds that a new round waits for all the agents it would select, before min_clients are enough",
    )

    @model_validator(mode="after")
    def _goal_above_min(self) -> RoundsSpec:
        if self.goal_clients is not None and self.goal_clients < self.min_clients:
            raise ValueError(f"goal_clients ({self.goal_clients}) is below min_clients ({self.min_clients})")
        return self

    @property
    def goal(self) -> int:
        return self.goal_clients or self.min_clients

    @property
    def cohort_size(self) -> int:
        """Clients to select into a round."""
        return ceil(self.goal * self.over_selection - 1e-9)


class LocalSpec(Strict):
    steps: int = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="Training steps in a round. More of them save rounds and bytes, but let unlike clients drift apart",
    )
    batch_size: int = Field(default=16, ge=1, le=65_536, description="Examples in one step; more need more memory")
    group_by_length: bool = Field(
        default=False, description="Puts texts of similar length into one batch, so that less padding is computed"
    )
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        le=10,
        description="Step size of the trained matrices. Too high a rate makes the loss infinite, and the client fails",
    )
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Step size of weights that are sent whole, such as a new head; null: learning_rate",
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Trained weights shrink by learning_rate x weight_decay at each step; 0: not at all",
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999),
        description="How much AdamW keeps of its mean gradient and of its mean squared gradient at each step",
    )
    eps: float = Field(
        default=1e-8, gt=0, le=1, description="Smallest divisor in AdamW: keeps steps finite where gradients are near 0"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Arithmetic of the passes. bfloat16 is faster on many processors; weights and states stay float32",
    )

    @model_validator(mode="after")
    def _decay_leaves_weights(self) -> LocalSpec:
        if self.learning_rate * self.weight_decay >= 1:
            raise ValueError("learning_rate x weight_decay must stay below 1")
        return self


class EvaluationSpec(Strict):
    every: int = Field(
        default=1,
        ge=0,
        le=MANY,
        description="Rounds from one evaluation of the model at the clients to the next; 0: only the final model",
    )
    split: Literal["train", "test"] = Field(
        default="test", description="Which data of the clients the model is evaluated on"
    )
    batch_size: int = Field(
        default=64, ge=1, le=65_536, description="Examples evaluated at once; more need more memory"
    )
    max_examples: int | None = Field(
        default=None, ge=1, le=MANY, description="Most examples that a client evaluates, its first ones; null: all"
    )
    exact_match: Literal["text", "number"] | None = Field(
        default=None,
        description="Lets a language model answer the prompts and counts right answers: equal to the completion "
        "(text) or ending in the same number (number). Takes far longer than the loss; null: off",
    )
    max_new_tokens: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Longest such answer, in tokens. data.max_length has to hold it and the prompt",
    )


def _method_kind(value: Any) -> str:
    """The kind that a document's method names."""
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, dict) else getattr(value, "kind", "")
    return kind if isinstance(kind, str) else ""  # nobody knows how large it would be as text


def _unusable() -> list[str]:
    return [f"{kind!r} is installed, but {reason}" for kind, reason in broken().items()]


if TYPE_CHECKING:
    AnyMethod = MethodSpec
else:
    AnyMethod = Annotated[
        reduce(or_, (Annotated[face.spec, Tag(kind)] for kind, face in methods().items())),
        Discriminator(
            _method_kind,
            custom_error_type="method_kind",
            custom_error_message="; ".join((f"Input should be one of {', '.join(methods())}", *_unusable())),
        ),
    ]


class JobSpec(Strict):
    """One federated fine-tuning job."""

    name: Identifier = Field(description="What people call the job; two jobs may have the same name")
    model: ModelSpec = Field(description="The model to fine-tune")
    data: DataSpec = Field(description="The sites' data")
    method: AnyMethod = Field(
        default=methods()[DEFAULT_KIND].spec(kind=DEFAULT_KIND),
        description="How clients train and how their updates are combined",
    )
    rounds: RoundsSpec = Field(
        default=RoundsSpec(), description="How many rounds, with how many clients, and how long a round waits"
    )
    local: LocalSpec = Field(default=LocalSpec(), description="How a client trains in one round")
    server: ServerSpec = Field(
        default=ServerSpec(), description="How the coordinator combines updates and bounds what one client can do"
    )
    privacy: PrivacySpec | None = Field(
        default=None,
        description="Differential privacy of clients: changes are cut to a length, their mean gets noise; null: off",
    )
    evaluation: EvaluationSpec = Field(
        default=EvaluationSpec(), description="When and on what the clients evaluate the model"
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Start of all random choices but the noise of privacy: new weights, cohorts, batches, bases",
    )

    @model_validator(mode="after")
    def _method_can_do_it(self) -> JobSpec:
        self.method.check_job(self)
        return self

    @model_validator(mode="after")
    def _changes_can_be_looked_at(self) -> JobSpec:
        """What looks at one client's change needs a method that has it in the full space."""
        server, kind = self.server, self.method.kind
        asked = {"clip_norm": server.clip_norm, "drop_norm": server.drop_norm, "aggregation": server.is_robust or None}
        names = [name for name, value in asked.items() if value is not None]
        if names and kind not in summing_kinds():
            raise ValueError(
                f"server.{names[0]}: {kind} averages factors, not changes; "
                f"take method.kind: {' or '.join(summing_kinds())}, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _nothing_leaves_without_noise(self) -> JobSpec:
        server, kind = self.server, self.method.kind
        if self.privacy is None:
            return self
        if kind not in summing_kinds():
            raise ValueError(f"privacy: {kind} averages factors; take method.kind: {' or '.join(summing_kinds())}")
        if server.is_robust or server.clip_norm is not None or server.drop_norm is not None:
            raise ValueError("privacy: cuts every change itself; leave server.aggregation, clip_norm and drop_norm out")
        return self

    @property
    def has_full_rank(self) -> bool:
        """Whether the clients' changes come to one of full rank, whatever theirs is."""
        return self.server.is_robust or self.privacy is not None

    @model_validator(mode="after")
    def _images_have_no_length(self) -> JobSpec:
        if self.model.task == "image-classification" and self.local.group_by_length:
            raise ValueError("local.group_by_length: images have no length; leave it out")
        return self

    @model_validator(mode="after")
    def _answers_can_be_generated(self) -> JobSpec:
        evaluation, max_length = self.evaluation, self.data.max_length
        if evaluation.exact_match is None:
            return self
        if self.model.task != "causal-lm":
            raise ValueError(f"evaluation.exact_match needs task: causal-lm; leave it out for {self.model.task}")
        if evaluation.max_new_tokens >= max_length:
            raise ValueError(
                f"evaluation.max_new_tokens ({evaluation.max_new_tokens}) leaves no room for a prompt in "
                f"data.max_length ({max_length}); lower the one or raise the other"
            )
        return self

    def evaluates(self, model_version: int) -> bool:
        """Whether clients evaluate this version of the model; the last one always is."""
        if model_version >= self.rounds.count:
            return True
        return self.evaluation.every > 0 and model_version % self.evaluation.every == 0


class SpecError(ValueError):
    """A document that is not a valid job; the message names each field and its remedy."""


def explain(error: ValidationError) -> list[dict[str, str]]:
    """Pydantic's findings as `{field, problem}` rows that a person can act on."""
    rows = []
    findings = error.errors(include_url=False, include_context=False, include_input=False)
    for item in findings[:MOST_ROWS]:
        path = [printable(str(part), 60) for part in item["loc"]]
        if path[0:1] == ["method"] and path[1:2] and path[1] in methods():
            del path[1]  # pydantic's name of the union's member
        if item["type"] == "method_kind":
            path.append("kind")
        field = ".".join(path) or "document"
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = "unknown key; remove it or check its spelling"
        rows.append({"field": field, "problem": problem})
    if len(findings) > MOST_ROWS:
        rows.append({"field": "document", "problem": f"{len(findings) - MOST_ROWS} more; correct these first"})
    return rows


def parse(document: Any) -> JobSpec:
    """A mapping as a `JobSpec`.

    Raises:
        SpecError: with one line a field.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        lines = [f"{row['field']}: {row['problem']}" for row in explain(error)]
        raise SpecError("; ".join(lines)) from None


def load(path: Path) -> JobSpec:
    """Reads a job from a YAML or JSON file.

    Raises:
        SpecError: the file is missing, is not YAML/JSON, or is not a valid job.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error})") from error
    try:
        document = read_json(text) if path.suffix == ".json" else read_yaml(text)
    except DocumentError as error:
        raise SpecError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path}: a job is a mapping with the keys name, model, data, ...")
    return parse(document)
