"""What other modules see of the method. It is read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedgalore.spec.method import MethodFace, MethodSpec, PlainLayout, Tensors, float16, float32
from fedgalore.spec.plan import Target

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec


class SignMeanSpec(MethodSpec):
    """The `method` section of a job: `{kind: sign_mean, step: 0.5}`."""

    kind: Literal["sign_mean"] = "sign_mean"
    step: float = Field(default=1.0, gt=0, le=1, description="How much of the mean change the model takes in a round")


class SignMeanLayout(PlainLayout):
    """`W/signs`, as the weight, and `W/length (1, 1)`, the mean absolute change."""

    def __init__(self, spec: JobSpec) -> None:
        """The layout is the same for every job."""

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        return float32(length=(1, 1)) | float16(signs=target.shape)

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return target.d


METHOD = MethodFace(
    kind="sign_mean",
    spec=SignMeanSpec,
    layout=SignMeanLayout,
    client="sign_mean.client:SignMeanClient",
    server="sign_mean.server:SignMeanServer",
    sums_changes=True,
    full_rank=True,
)
