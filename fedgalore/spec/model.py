"""The section of a job document that says which model is fine-tuned, and for what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from fedgalore.spec.dtypes import Dtype
from fedgalore.spec.names import check_different, check_texts
from fedgalore.spec.start import check_start
from fedgalore.spec.strict import Strict, Text

TaskName = Literal["sequence-classification", "token-classification", "image-classification", "causal-lm", "seq2seq-lm"]
Problem = Literal["single_label", "multi_label", "regression"]

WRITING = ("causal-lm", "seq2seq-lm")  # tasks whose models write text; the others have a head with labels
PROBLEMS = ("sequence-classification", "image-classification")  # tasks with a choice of problem


class ModelSpec(Strict):
    source: str = Field(
        min_length=1,
        max_length=4096,
        description="The base model: a folder that the coordinator can read, a name on the Hugging Face hub, or a "
        "version of another job of this coordinator, as job:JOB@VERSION",
    )
    task: TaskName = Field(
        default="sequence-classification",
        description="What the model does: it classifies texts, their words or images, or it writes text, "
        "as a decoder (causal-lm) or as encoder and decoder (seq2seq-lm)",
    )
    problem: Problem | None = Field(
        default=None,
        description="What a label is: one class (single_label), any number of classes (multi_label), or num_labels "
        "numbers (regression); null: regression where num_labels is 1, or else single_label",
    )
    num_labels: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Number of classes, or of numbers that regression predicts. All but language models need it, "
        "unless label_names lists the classes",
    )
    label_names: tuple[Text, ...] | None = Field(
        default=None,
        max_length=100_000,
        description="Class names in the order of their index. What the data hold is looked up among them first, "
        "whatever its type; docs/DATA.md has the rule",
    )
    dtype: Dtype = Field(
        default="base",
        description="Number format of the model that people download, and in which the clients evaluate it; base: as "
        "the base model has it. Training is in float32 whatever this says",
    )

    _source_names_a_version = field_validator("source")(check_start)
    _names_are_texts = field_validator("label_names", mode="before")(check_texts)

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> ModelSpec:
        if self.problem is not None and self.task not in PROBLEMS:
            raise ValueError(f"problem belongs to task: {' or '.join(PROBLEMS)}; leave it out for {self.task}")
        if self.task in WRITING:
            if self.num_labels is not None or self.label_names is not None:
                raise ValueError(f"num_labels and label_names belong to classes; leave them out for {self.task}")
            return self
        if self.num_labels is None and self.label_names is None:
            raise ValueError(f"num_labels is needed for task: {self.task}")
        if self.problem_type == "regression" and self.label_names is not None:
            raise ValueError("label_names names classes, and regression predicts numbers; give num_labels instead")
        self._names_are_classes()
        if self.problem_type != "regression" and self.labels < 2:
            raise ValueError(f"num_labels is 1, and one class leaves nothing to tell apart; {self._way_out}")
        return self

    def _names_are_classes(self) -> None:
        if self.label_names is None:
            return
        check_different(self.label_names)
        if self.num_labels is not None and self.num_labels != len(self.label_names):
            raise ValueError(f"num_labels is {self.num_labels} but label_names has {len(self.label_names)} names")

    @property
    def _way_out(self) -> str:
        if self.task in PROBLEMS:
            return "take two or more, or problem: regression for labels that are numbers"
        return "take two or more"

    @property
    def labels(self) -> int:
        """Number of classes, or of predicted numbers; 0 for a language model."""
        return len(self.label_names) if self.label_names else (self.num_labels or 0)

    @property
    def writes(self) -> bool:
        """Whether the model writes texts, and so has no labels."""
        return self.task in WRITING

    @property
    def problem_type(self) -> Problem | None:
        """What a label is; None for a language model."""
        if self.writes:
            return None
        if self.problem is not None or self.task not in PROBLEMS:
            return self.problem or "single_label"
        return "regression" if self.num_labels == 1 else "single_label"
