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
    source: str = Field(min_length=1, max_length=4096, description="Folder that the coordinator can read, or a hub id")
    task: Literal["sequence-classification", "causal-lm", "image-classification"] = "sequence-classification"
    num_labels: int | None = Field(default=None, ge=2, le=100_000, description="Classes; needed for classification")
    label_names: tuple[Text, ...] | None = Field(
        default=None,
        max_length=100_000,
        description="Class names in order of their index; lets data hold names instead of numbers",
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
    name: Identifier = Field(description="Data set; each agent maps the name to files of its own")
    max_length: int = Field(default=128, ge=2, le=32_768, description="Tokens a text is cut to")


class RoundsSpec(Strict):
    count: int = Field(default=20, ge=1, le=100_000, description="Rounds to commit")
    min_clients: int = Field(default=2, ge=1, le=10_000, description="Reports a round needs to be committed")
    goal_clients: int | None = Field(
        default=None, ge=1, le=10_000, description="Reports a round waits for; default: min_clients"
    )
    over_selection: float = Field(default=1.0, ge=1, le=10, description="Selected clients as a multiple of the goal")
    deadline_s: float = Field(
        default=600, gt=0, le=604_800, description="Longest time from selection to the last report"
    )
    selection_wait_s: float = Field(
        default=30,
        ge=0,
        le=86_400,
        description="Time to wait for goal_clients x over_selection agents once min_clients are there",
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
    steps: int = Field(default=10, ge=1, le=1_000_000, description="Optimizer steps a client takes in a round")
    batch_size: int = Field(default=16, ge=1, le=65_536)
    group_by_length: bool = Field(default=False, description="Like lengths in one batch: less padding, faster steps")
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="Of the target matrices")
    head_learning_rate: float | None = Field(
        default=None, gt=0, le=10, description="Of weights sent dense (heads); default: learning_rate"
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0, le=1)
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the forward and backward pass; weights and optimizer states stay float32"
    )

    @model_validator(mode="after")
    def _decay_leaves_weights(self) -> LocalSpec:
        if self.learning_rate * self.weight_decay >= 1:
            raise ValueError("learning_rate x weight_decay must stay below 1")
        return self


class EvaluationSpec(Strict):
    every: int = Field(default=1, ge=0, le=MANY, description="Rounds between two evaluations; 0: only the final model")
    split: Literal["train", "test"] = "test"
    batch_size: int = Field(default=64, ge=1, le=65_536)
    max_examples: int | None = Field(
        default=None, ge=1, le=MANY, description="Examples a client evaluates at most; null: all"
    )
    exact_match: Literal["text", "number"] | None = Field(
        default=None,
        description="Lets a language model answer each prompt and counts answers that are the completion: its text, or "
        "the last number in it; null: off, as it takes far longer than the loss",
    )
    max_new_tokens: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Tokens after which an answer is cut, for exact_match; data.max_length holds them and the prompt",
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

    name: Identifier
    model: ModelSpec
    data: DataSpec
    method: AnyMethod = methods()[DEFAULT_KIND].spec(kind=DEFAULT_KIND)
    rounds: RoundsSpec = RoundsSpec()
    local: LocalSpec = LocalSpec()
    server: ServerSpec = ServerSpec()
    privacy: PrivacySpec | None = Field(
        default=None, description="Clipped changes and noise; null: off. Each round's statistics tell epsilon"
    )
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = Field(default=0, ge=0, lt=2**63)

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
    found = error.errors(include_url=False, include_context=False, include_input=False)
    for item in found[:MOST_ROWS]:
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
    if len(found) > MOST_ROWS:
        rows.append({"field": "document", "problem": f"{len(found) - MOST_ROWS} more; correct these first"})
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
