"""What a job document says of the coordinator's half: how changes are combined, and what of privacy is promised."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedgalore.spec.strict import MANY, Strict


class ServerSpec(Strict):
    learning_rate: float = Field(default=1.0, gt=0, le=10, description="Multiplies the aggregate")
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="A client's change whose norm is above this multiple of the round's median is scaled down to it; "
        "null: off",
    )
    drop_norm: float | None = Field(
        default=None,
        gt=1,
        description="A client's change whose norm is above this multiple of the round's median is left out; null: off",
    )
    max_examples: int | None = Field(
        default=None,
        ge=1,
        le=MANY,
        description="No client weighs more than one with so many examples, whatever it claims",
    )
    aggregation: Literal["mean", "trimmed_mean", "median"] = Field(
        default="mean",
        description="Of the clients' changes: their mean, weighed by examples; or, coordinate by coordinate and every "
        "client alike, the mean without the extremes, or the median",
    )
    trim_share: float = Field(
        default=0.1, gt=0, lt=0.5, description="Of the clients, left out at each end by trimmed_mean; at least one"
    )

    @model_validator(mode="after")
    def _what_is_dropped_is_longer(self) -> ServerSpec:
        if self.clip_norm is not None and self.drop_norm is not None and self.drop_norm <= self.clip_norm:
            raise ValueError(f"drop_norm ({self.drop_norm:g}) must be above clip_norm ({self.clip_norm:g})")
        return self

    @property
    def is_robust(self) -> bool:
        return self.aggregation != "mean"


class PrivacySpec(Strict):
    """Differential privacy of whole clients: `fedgalore.maths.privacy`."""

    clip_norm: float = Field(gt=0, le=1e6, description="Norm that a client's whole change is cut to")
    noise_multiplier: float = Field(
        gt=0, le=1000, description="Standard deviation of the noise on the sum of the changes, in clip_norms"
    )
    delta: float = Field(default=1e-5, gt=0, lt=0.1, description="Chance with which epsilon may be exceeded")
