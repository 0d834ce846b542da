"""What a `fedgalore` job chooses, with its defaults and what excludes what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedgalore.spec.method import Rank, RankedSpec
from fedgalore.spec.momentum import MOMENTUM
from fedgalore.spec.strict import MANY

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec


class FedGaLoreSpec(RankedSpec):
    """GaLore subspaces, with full-space aggregation and, where it is asked for, state alignment."""

    kind: Literal["fedgalore"] = "fedgalore"
    rank: Rank = Field(default=8, description="Columns of each basis")
    basis: Literal["local", "shared"] = Field(
        default="local",
        description="Each client's own gradient subspaces, or one that the mean gradient of all clients spans",
    )
    state_sync: Literal["ajive", "average", "reset", "local"] = Field(
        default="reset",
        description="Second moments a round starts from: none, what all share, their mean, or each client's own",
    )
    state_scale: Literal["median", "own"] = Field(
        default="median",
        description="How large each client's second moments of a matrix are when they are combined: as the clients' "
        "median, so that nobody's large gradients outweigh the others, or as they are",
    )
    scale: float = Field(
        default=1.0, gt=0, le=100, description="GaLore's alpha: multiplies the step of target matrices"
    )
    complement: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="How strongly the gradient outside the subspace moves the weights, scaled column by column as the "
        "part inside; null: 1, or 0 with basis: shared; 0: not at all, and a client's change is sent exactly",
    )
    uplink_rank: Rank | None = Field(
        default=None,
        description="Rank of a client's change on its way up, in float16; what that leaves out is kept and goes with "
        "its next update; null: three times `rank`",
    )
    basis_pool: int = Field(
        default=6,
        ge=1,
        le=64,
        description="A local basis is drawn from this many times `rank` leading singular vectors; 1: the leading ones",
    )
    update_proj_gap: int = Field(default=200, ge=1, le=MANY, description="Local steps between two bases inside a round")
    prior_steps: float | None = Field(
        default=2.0, ge=0, description="Steps the carried second moment counts for; null: trusted for ever"
    )
    update_clip: float | None = Field(default=1.0, gt=0, description="RMS an update is clipped to; null: off")
    global_momentum: float | None = Field(
        default=None, ge=0, lt=1, description=f"{MOMENTUM}; null: 0.6, or 0 with basis: shared"
    )
    downlink_rank: int | None = Field(
        default=None,
        ge=0,
        le=4096,
        description="Rank the aggregate is cut to on its way down, in float16; what that leaves out goes with the next "
        "one; 0: exact; null: twelve times `rank` where it has full rank and that is smaller",
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> FedGaLoreSpec:
        self.check_ranks()
        if self.basis == "shared" and self.client_ranks:
            raise ValueError("client_ranks needs basis: local; with basis: shared all clients train in one basis")
        if self.basis == "shared" and self.downlink_rank:
            raise ValueError("downlink_rank: the aggregate of a shared basis has rank `rank` already; leave it out")
        if self.basis == "shared" and self.complement:
            raise ValueError("complement needs basis: local; with basis: shared all clients train in one basis only")
        if self.uplink_rank is not None and not self.compresses:
            raise ValueError(
                "uplink_rank: without complement a change has rank `rank` and is sent exactly; leave it out"
            )
        return self

    @property
    def outside(self) -> float:
        """`complement` with its default."""
        return self.complement if self.complement is not None else float(self.basis == "local")

    def check_job(self, job: JobSpec) -> None:
        shared = self.basis == "shared"
        if shared and self.update_proj_gap < job.local.steps:
            raise ValueError(
                f"method.update_proj_gap ({self.update_proj_gap}) below local.steps ({job.local.steps}) needs "
                "method.basis: local; a shared basis stays for the whole round"
            )
        if shared and job.server.is_robust:
            raise ValueError(
                f"server.aggregation: {job.server.aggregation} of changes in one basis lies outside it; "
                "take method.basis: local, or aggregation: mean"
            )
        if shared and job.privacy is not None:
            raise ValueError("privacy: a shared basis is found from the clients' gradients; take method.basis: local")
        if self.sends_state and job.privacy is not None:
            raise ValueError("privacy: second moments have no noise; take method.state_sync: reset or local")

    @property
    def momentum(self) -> float:
        """`global_momentum` with its default."""
        if self.global_momentum is not None:
            return self.global_momentum
        return 0.6 if self.basis == "local" else 0.0

    @property
    def compresses(self) -> bool:
        """Whether a client's change has full rank, so that only its leading part is sent."""
        return self.outside > 0

    @property
    def sends_state(self) -> bool:
        """Whether clients tell their second moments, to be combined."""
        return self.state_sync in ("ajive", "average")

    @property
    def form(self) -> Literal["leading part", "exact factors", "shared basis"]:
        """How a client's change travels: the case split of this method, which its layout and both halves look up."""
        if self.compresses:
            return "leading part"
        return "exact factors" if self.basis == "local" else "shared basis"
