"""The sections of a job document that every method shares: data, rounds, local training, evaluation."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedgalore.spec.findings import does_not_fit
from fedgalore.spec.metrics import ROUGE
from fedgalore.spec.strict import MANY, Identifier, Strict, Text
from fedgalore.spec.template import Template


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
    template: Template | None = Field(
        default=None,
        description="How a language model's prompt and completion are made of the columns that a site's config names, "
        "at all sites alike; null: they are columns of their own",
    )


class KeepVersions(Strict):
    """Which versions of the model can be downloaded, and made current again, beside the newest and the best."""

    last: int = Field(default=3, ge=1, le=MANY, description="Newest versions to keep, by what they are made of")
    every: int | None = Field(
        default=None,
        ge=1,
        le=MANY,
        description="Versions whose number this divides are kept for good; 1 keeps all of them; null: none",
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
    keep_versions: KeepVersions = Field(
        default=KeepVersions(),
        description="Versions of the model that stay on the coordinator's disk beside the best",
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


MOST_WEIGHT = 1_000_000


class LocalSpec(Strict):
    steps: int = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="Training steps in a round. More of them save rounds and bytes, but let unlike clients drift apart",
    )
    batch_size: int = Field(default=16, ge=1, le=65_536, description="Examples in one step; more need more memory")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Most examples in one pass: the gradient of a step is summed over as many passes as batch_size "
        "takes, which needs less memory for activations, and a gradient for each trained weight; null: batch_size",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Keeps no activations inside of layers and computes them again in the backward pass: far less "
        "memory for about a quarter more time, with the same result. Some models cannot, and are refused",
    )
    group_by_length: bool = Field(
        default=False, description="Puts texts of similar length into one batch, so that less padding is computed"
    )
    packing: bool = Field(
        default=False,
        description="Lets short examples of a causal-lm share a row of up to data.max_length tokens, so that less "
        "padding is computed, with the same result: no example sees another. Some models cannot, and are refused",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Step size of the trained matrices. Too high a rate makes the loss infinite, and the client fails. "
        "null: fedgalore takes one that follows the model's matrices and falls over the rounds; other methods need one",
    )
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Step size of a classifier's head; null: learning_rate, or where that is null as well, one that "
        "follows the head's width and falls over the rounds",
    )
    schedule: Literal["constant", "linear", "cosine"] | None = Field(
        default=None,
        description="How both rates go over the job's rounds behind warmup_rounds: as they are, or falling to "
        "final_share. null: rates that the job names are constant, others fall in a straight line to half",
    )
    warmup_rounds: int = Field(
        default=0,
        ge=0,
        le=MANY,
        description="First rounds, in which both rates rise in equal steps: 3 begin at a quarter; 0: whole at once",
    )
    final_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the rates that schedule: linear or cosine falls towards over the job's rounds; null: 0",
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
    max_grad_norm: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="Longest that the gradients of all trained weights together may be: longer ones are shortened to "
        "this norm before the step. Takes memory for a gradient of each trained weight; null: as long as they are",
    )
    class_weights: Literal["balanced"] | tuple[float, ...] | None = Field(
        default=None,
        max_length=100_000,
        description="Weights of the classes in the training loss, in the order of their index; balanced: each client "
        "weighs a class by how rare it is among its own examples. An evaluation weighs all alike; null: none",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Arithmetic of the passes. bfloat16 is faster on many processors; weights and states stay float32",
    )
    weights: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="What a client holds the model's matrices in while it trains. bfloat16 halves their memory: each "
        "step is rounded up or down by chance, so that small ones count. Needs precision: bfloat16",
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_or_balanced(cls, value: Any) -> Any:
        """One sentence in place of a finding for each type that a value might be."""
        weights = isinstance(value, list | tuple) and all(isinstance(weight, int | float) for weight in value)
        if value is None or value == "balanced" or (weights and all(0 < weight <= MOST_WEIGHT for weight in value)):
            return value
        raise ValueError(does_not_fit(value, f"balanced, or for each class a number above 0, at most {MOST_WEIGHT}"))

    @model_validator(mode="after")
    def _passes_fit_the_weights(self) -> LocalSpec:
        if self.weights == "bfloat16" and self.precision != "bfloat16":
            raise ValueError("weights: bfloat16 needs precision: bfloat16; add that, or leave weights out")
        return self

    @model_validator(mode="after")
    def _what_falls_has_an_end(self) -> LocalSpec:
        if self.final_share is not None and self.schedule not in ("linear", "cosine"):
            raise ValueError("final_share is what schedule: linear or cosine falls to; name one, or leave it out")
        return self

    @property
    def rows_of_a_pass(self) -> int:
        """Most examples that go through the model at once in training."""
        return self.micro_batch_size or self.batch_size

    @model_validator(mode="after")
    def _micro_batches_make_a_batch(self) -> LocalSpec:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) exceeds batch_size ({self.batch_size}), which it is a "
                "part of; lower it, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _decay_leaves_weights(self) -> LocalSpec:
        if self.learning_rate is not None and self.learning_rate * self.weight_decay >= 1:
            raise ValueError("learning_rate x weight_decay must stay below 1")
        return self


class KeepSpec(Strict):
    """What makes a version of the model the best, and when the job ends because none becomes better."""

    metric: Text = Field(
        description="The measure of a version, over all examples that it was evaluated on, such as loss or accuracy"
    )
    by: Literal["sites", "central"] | None = Field(
        default=None,
        description="Whose evaluations tell: the clients', or the coordinator's on evaluation.central; null: the "
        "clients', or the coordinator's where no client had measured when a version was first evaluated",
    )
    mode: Literal["max", "min"] | None = Field(
        default=None,
        description="Whether a greater or a smaller value is better; null: as the metric has it, smaller for loss",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=MANY,
        description="Evaluations in a row without an improvement after which the job ends early; null: it does not",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        description="How much better than the last improvement a value has to be to count as one for patience",
    )

    @model_validator(mode="after")
    def _delta_has_patience(self) -> KeepSpec:
        if self.min_delta and self.patience is None:
            raise ValueError("min_delta is what patience goes by; set patience, or leave min_delta out")
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
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Examples evaluated at once; more need more memory. null: 64, and for a task that writes texts as "
        "many as in one pass of training, since each token has a logit for each word of the vocabulary",
    )
    max_examples: int | None = Field(
        default=None,
        ge=1,
        le=MANY,
        description="Most examples that a client evaluates: a sample by the job's seed, the same at every round, "
        "in which each class keeps its share; null: all",
    )
    metrics: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(),
        max_length=50,
        description="Metrics beside the loss and the accuracy (of regression: the squared error), counted at the sites "
        "and summed, as of one test set of all of them. Which fit a task: [metrics](#metrics)",
    )
    central: Identifier | None = Field(
        default=None,
        description="Name of a data set that the coordinator's operator holds out. The coordinator evaluates on it the "
        "versions that clients evaluate, too; null: clients alone evaluate",
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
        description="Longest such answer, in tokens. data.max_length has to hold it, for causal-lm with the prompt",
    )
    keep: KeepSpec | None = Field(
        default=None,
        description="Keeps the best evaluated version beside the last; null: no version is the best",
    )

    @property
    def matching(self) -> Literal["text", "number"] | None:
        """How written answers are compared, if they are; the metric alone compares texts."""
        return self.exact_match or ("text" if "exact_match" in self.metrics else None)

    @property
    def generates(self) -> bool:
        """Whether the model writes answers to the prompts."""
        return self.matching is not None or any(name in ROUGE for name in self.metrics)
