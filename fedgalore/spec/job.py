"""The job document: what a user posts, validated once and read everywhere.

Pure pydantic: the coordinator's doors, the agents and the simulation all parse jobs with `JobSpec`, so the three
cannot disagree about a default. Unknown keys are refused. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from fedgalore.spec.better import check_keep
from fedgalore.spec.documents import DocumentError, read_json, read_yaml
from fedgalore.spec.findings import OWN, Row, does_not_fit, rows, schema_of
from fedgalore.spec.method import MethodSpec
from fedgalore.spec.metrics import check_metrics, measured
from fedgalore.spec.model import WRITING, ModelSpec
from fedgalore.spec.registry import broken, methods, summing_kinds
from fedgalore.spec.sections import DataSpec, EvaluationSpec, LocalSpec, RoundsSpec
from fedgalore.spec.server import PrivacySpec, ServerSpec
from fedgalore.spec.strict import Identifier, Strict
from fedgalore.spec.takes import either
from fedgalore.spec.template import check_template
from fedgalore.spec.wire import Bits, WireSpec

DEFAULT_KIND = "fedgalore"
METHOD_KIND = "method_kind"  # pydantic's type of a finding: `explain` has its words


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
            custom_error_type=METHOD_KIND,
            custom_error_message="a method of no known kind",
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
    wire: WireSpec = Field(default=WireSpec(), description="How changes travel between clients and coordinator")
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
    def _steps_are_not_lost(self) -> JobSpec:
        if self.local.weights == "bfloat16" and not self.method.steps_in_bfloat16:
            raise ValueError(
                f"local.weights: bfloat16 loses the small steps of this method ({self.method.kind}), which are rounded "
                "to nearest; leave it out, or take method.kind: fedgalore"
            )
        return self

    @model_validator(mode="after")
    def _only_changes_of_full_rank_are_cut(self) -> JobSpec:
        wire = self.wire
        if self.method.cuts or (wire.bits in (None, 32) and wire.up_rank is None and not wire.down_rank):
            return self
        raise ValueError(
            f"wire: changes of this method ({self.method.kind}) travel exactly, as factors or whole; leave wire out, "
            "or take method.kind: fedgalore with a complement"
        )

    @property
    def bits(self) -> Bits:
        """`wire.bits` with its default."""
        return self.wire.bits or (4 if self.method.cuts else 32)

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
    def _the_rate_is_known(self) -> JobSpec:
        if self.local.learning_rate is None and not self.method.finds_rate:
            raise ValueError(
                f"local.learning_rate: {self.method.kind} has no rate of its own; name one, such as 1.0e-3, or take "
                "method.kind: fedgalore"
            )
        return self

    @model_validator(mode="after")
    def _the_warm_up_ends(self) -> JobSpec:
        warm, count = self.local.warmup_rounds, self.rounds.count
        if warm >= count:
            raise ValueError(
                f"local.warmup_rounds ({warm}) leaves none of the {count} rounds (rounds.count) at the whole rate; "
                "lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _images_have_no_length(self) -> JobSpec:
        if self.model.task == "image-classification" and self.local.group_by_length:
            raise ValueError("local.group_by_length: images have no length; leave it out")
        return self

    @model_validator(mode="after")
    def _rows_can_be_shared(self) -> JobSpec:
        if self.local.packing and self.model.task != "causal-lm":
            raise ValueError(
                f"local.packing: only examples of task: causal-lm can share a row, not those of {self.model.task}; "
                "leave it out, or take local.group_by_length where the inputs are texts"
            )
        return self

    @model_validator(mode="after")
    def _the_template_fits_the_task(self) -> JobSpec:
        check_template(self)
        return self

    @model_validator(mode="after")
    def _heads_are_trained_anyway(self) -> JobSpec:
        if "output" in self.method.train_also and not self.model.writes:
            raise ValueError(
                f"method.train_also: the output layer of {self.model.task} is its head, which is trained anyway; leave "
                "output out"
            )
        return self

    @model_validator(mode="after")
    def _answers_can_be_generated(self) -> JobSpec:
        evaluation, max_length = self.evaluation, self.data.max_length
        if not evaluation.generates:
            return self
        if not self.model.writes and evaluation.exact_match is not None:
            raise ValueError(
                f"evaluation.exact_match needs task: {' or '.join(WRITING)}; leave it out for {self.model.task}"
            )
        if self.model.task == "seq2seq-lm" and evaluation.max_new_tokens > max_length:
            raise ValueError(
                f"evaluation.max_new_tokens ({evaluation.max_new_tokens}) exceeds data.max_length ({max_length}), "
                "to which completions are cut; lower the one or raise the other"
            )
        if self.model.task == "causal-lm" and evaluation.max_new_tokens >= max_length:
            raise ValueError(
                f"evaluation.max_new_tokens ({evaluation.max_new_tokens}) leaves no room for a prompt in "
                f"data.max_length ({max_length}); lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _classes_have_weights(self) -> JobSpec:
        weights, model = self.local.class_weights, self.model
        if weights is None:
            return self
        if model.problem_type in (None, "regression"):
            raise ValueError(f"local.class_weights: {model.problem_type or model.task} has no classes; leave it out")
        if weights != "balanced" and len(weights) != model.labels:
            raise ValueError(
                f"local.class_weights: {len(weights)} weights for {model.labels} classes; "
                "give one for each, or balanced"
            )
        return self

    @model_validator(mode="after")
    def _metrics_fit_the_task(self) -> JobSpec:
        check_metrics(self)
        return self

    @model_validator(mode="after")
    def _the_best_can_be_told(self) -> JobSpec:
        check_keep(self)
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of what an evaluation measures, in the order of their listing."""
        return measured(self)

    def measures_centrally(self, rounds_behind: int) -> bool:
        """Whether the coordinator evaluates the model after so many committed rounds on its held-out set.

        With patience, any version may be the last.
        """
        wanted, keep = self.evaluation, self.evaluation.keep
        may_end = keep is not None and keep.patience is not None
        return wanted.central is not None and (rounds_behind == 0 or may_end or self.evaluates(rounds_behind))

    @property
    def rows_of_an_evaluation(self) -> int:
        """Most examples that are evaluated at once."""
        usual = self.local.rows_of_a_pass if self.model.task in WRITING else 64
        return self.evaluation.batch_size or usual

    def evaluates(self, rounds_behind: int) -> bool:
        """Whether clients evaluate the model after so many committed rounds; the last one always is."""
        if rounds_behind >= self.rounds.count:
            return True
        return self.evaluation.every > 0 and rounds_behind % self.evaluation.every == 0


class SpecError(ValueError):
    """A document that is not a valid job; the message names each field and its remedy."""


def explain(error: ValidationError) -> list[Row]:
    """What is wrong with a document as `{field, problem}` rows that a person can act on."""
    found = error.errors(include_url=False)
    return rows([_of_kinds(each) if each["type"] == METHOD_KIND else each for each in found], schema_of(JobSpec))


def _of_kinds(finding: Any) -> Any:
    """A method of no known kind, as a finding of its own."""
    if not isinstance(finding["input"], dict):
        return finding
    problem = does_not_fit(finding["input"].get("kind"), either(list(methods())))
    return finding | {"type": OWN[0], "loc": ("method", "kind"), "msg": "; ".join((problem, *_unusable()))}


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
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error})") from error
    return read(data, str(path), is_json=path.suffix == ".json")


def read(data: bytes, name: str, *, is_json: bool) -> JobSpec:
    """A job's document, read of what people call `name`.

    Raises:
        SpecError: it is not YAML/JSON, or is not a valid job.
    """
    try:
        document = read_json(data) if is_json else read_yaml(data)
    except DocumentError as error:
        raise SpecError(f"{name}: {error}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{name}: a job is a mapping with the keys name, model, data, ...")
    return parse(document)
