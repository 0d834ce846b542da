"""What a job document says of the coordinator's half: how changes are combined, and what of privacy is promised."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import median_low
from typing import Literal

from pydantic import Field, model_validator

from fedgalore.spec.strict import MANY, Strict

DEFAULT_MAX_WEIGHT = 3.0


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
        default=DEFAULT_MAX_WEIGHT,
        ge=1,
        description="Most examples that a client counts for, in the mean and in what evaluations of the round come to, "
        "as a multiple of the round's median number; null: no limit, so that a client that claims enough decides alone",
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

    def one_outweighs(self, clients: int) -> bool:
        """Whether a job that bounds what a client can do lets one of so many claim as much as all others together."""
        asked = self.clip_norm is not None or self.drop_norm is not None or self.max_weight != DEFAULT_MAX_WEIGHT
        weighed = self.aggregation == "mean" and self.weighting == "examples" and self.max_examples is None
        return asked and weighed and self.max_weight is not None and self.max_weight >= clients - 1

    def counted(self, claims: Sequence[int]) -> list[float]:
        """What each client counts for in a mean that claims so many training examples."""
        if self.weighting == "equal":
            return [1.0] * len(claims)
        most = inf if self.max_examples is None else self.max_examples
        return [min(claim, most) for claim in self.near_median(claims)]

    def near_median(self, claims: Sequence[float]) -> list[float]:
        """Numbers of examples, none above `max_weight` times their median.

        Of an even number of clients the smaller one in the middle is the median: of two, no claim raises it.
        """
        if self.max_weight is None or not claims:
            return [float(claim) for claim in claims]
        most = self.max_weight * median_low(claims)
        return [float(min(claim, most)) for claim in claims]


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
