"""What a job document says of the coordinator's half: how changes are combined, and what of privacy is promised."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedgalore.spec.strict import MANY, Strict


class ServerSpec(Strict):
    learning_rate: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Multiplies the clients' combined change before it moves the model; 1: the change as it is",
    )
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="Shortens a client's change that is longer than this many times the round's median; null: off",
    )
    drop_norm: float | None = Field(
        default=None,
        gt=1,
        description="Leaves out a client's change that is longer than this many times the round's median; null: off",
    )
    weighting: Literal["examples", "equal"] = Field(
        default="examples",
        description="What a client counts by in the mean. examples: by how many training examples it reports; equal: "
        "all alike, so that nobody gains by what it claims",
    )
    max_weight: float | None = Field(
        default=3.0,
        ge=1,
        description="Most examples that a client counts for in the mean, as a multiple of the round's median number; "
        "null: no limit, so that a client that claims enough decides alone",
    )
    max_examples: int | None = Field(
        default=None,
        ge=1,
        le=MANY,
        description="Most examples that a client counts for in the mean, however many it reports; null: no limit",
    )
    aggregation: Literal["mean", "trimmed_mean", "median"] = Field(
        default="mean",
        description="How changes are combined: by their mean, weighed by examples; or coordinate by coordinate, "
        "without the extremes or by the middle value, so that a few bad clients cannot pull the model away",
    )
    trim_share: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share of the clients that trimmed_mean leaves out at each end; at least one client",
    )

    @model_validator(mode="after")
    def _what_is_dropped_is_longer(self) -> ServerSpec:
        if self.clip_norm is not None and self.drop_norm is not None and self.drop_norm <= self.clip_norm:
            raise ValueError(f"drop_norm ({self.drop_norm:g}) must be above clip_norm ({self.clip_norm:g})")
        return self

    @model_validator(mode="after")
    def _what_is_bounded_counts(self) -> ServerSpec:
        if self.weighting == "equal" and self.max_examples is not None:
            raise ValueError(
                f"max_examples ({self.max_examples}) bounds nothing with weighting: equal; leave it out, or take "
                "weighting: examples"
            )
        return self

    @property
    def is_robust(self) -> bool:
        return self.aggregation != "mean"

    @property
    def believes_claims(self) -> bool:
        """Whether a client that claims enough examples outweighs all others together, however many they are."""
        unbounded = self.max_weight is None and self.max_examples is None
        return self.aggregation == "mean" and self.weighting == "examples" and unbounded


class PrivacySpec(Strict):
    """Differential privacy of whole clients: `fedgalore.maths.privacy`."""

    clip_norm: float = Field(
        gt=0,
        le=1e6,
        description="Length that every client's change is cut to. The noise grows with it, so do not set it too high",
    )
    noise_multiplier: float = Field(
        gt=0,
        le=1000,
        description="Noise on the sum of the changes, in clip_norms. More gives a smaller epsilon and a worse model",
    )
    delta: float = Field(
        default=1e-5,
        gt=0,
        lt=0.1,
        description="Probability with which the promise of epsilon may fail; take far less than 1 / number of clients",
    )
