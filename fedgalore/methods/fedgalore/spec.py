"""What a `fedgalore` job chooses, with its defaults and what excludes what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedgalore.spec.method import MOMENTUM, Rank, RankedSpec
from fedgalore.spec.strict import MANY

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec


class FedGaLoreSpec(RankedSpec):
    """Full weights, trained with optimizer states in low-rank gradient subspaces; the server averages whole changes."""

    kind: Literal["fedgalore"] = "fedgalore"
    rank: Rank = Field(
        default=8,
        description="Directions of each matrix that a client adapts its steps to. More cost bytes and memory, and "
        "learn more",
    )
    basis: Literal["local", "shared"] = Field(
        default="local",
        description="local: each client trains in directions of its data. shared: all train in the same ones; "
        "fewer bytes go down, less is learnt",
    )
    state_sync: Literal["ajive", "average", "reset", "local"] = Field(
        default="reset",
        description="Second moments of AdamW that a round starts from. reset: none. ajive: what all clients "
        "share. average: their mean. local: what the client kept. ajive and average make updates a "
        "tenth larger",
    )
    state_scale: Literal["median", "own"] = Field(
        default="median",
        description="For ajive and average. median: each client counts with the clients' median size, so that "
        "large gradients at one do not decide. own: as they are",
    )
    scale: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Multiplies the steps of the trained matrices beside the learning rate, not those of the head",
    )
    complement: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="How strongly the gradient outside the basis moves the weights too. 0: not at all, and "
        "changes are sent exactly; null: 1, or 0 with basis: shared",
    )
    basis_pool: int = Field(
        default=6,
        ge=1,
        le=64,
        description="A basis is drawn from this many times `rank` leading directions of the gradient, so that "
        "rounds differ; 1: always the leading ones",
    )
    update_proj_gap: int = Field(
        default=200, ge=1, le=MANY, description="Local steps after which a client takes a new basis inside a round"
    )
    prior_steps: float | None = Field(
        default=2.0,
        ge=0,
        description="Steps of training that a carried second moment weighs as much as. 0: as reset; null: for ever",
    )
    update_clip: float | None = Field(
        default=1.0,
        gt=0,
        description="Cuts a step whose root mean square is larger, so that an old optimizer state causes no giant "
        "step; null: off",
    )
    global_momentum: float | None = Field(
        default=None, ge=0, lt=1, description=f"{MOMENTUM}. null: 0.6, or 0 with basis: shared"
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> FedGaLoreSpec:
        self.check_ranks()
        if self.basis == "shared" and self.client_ranks:
            raise ValueError("client_ranks needs basis: local; with basis: shared all clients train in one basis")
        if self.basis == "shared" and self.complement:
            raise ValueError("complement needs basis: local; with basis: shared all clients train in one basis only")
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
    def finds_rate(self) -> bool:
        return True

    @property
    def steps_in_bfloat16(self) -> bool:
        return True

    @property
    def starts_anew(self) -> bool:
        return self.basis == "local"

    @property
    def momentum(self) -> float:
        """`global_momentum` with its default."""
        if self.global_momentum is not None:
            return self.global_momentum
        return 0.6 if self.basis == "local" else 0.0

    @property
    def cuts(self) -> bool:
        return self.outside > 0

    @property
    def told_by_parameters(self) -> bool:
        return self.form == "leading part" and not self.sends_state

    @property
    def tells_single_batches(self) -> bool:
        # A basis is of one gradient. Sent as it is, or where little else moves, it is what an update shows.
        return self.form != "shared basis" and self.outside < 1

    @property
    def favours_a_batch(self) -> bool:
        return self.form == "leading part"

    @property
    def sends_state(self) -> bool:
        """Whether clients tell their second moments, to be combined."""
        return self.state_sync in ("ajive", "average")

    @property
    def form(self) -> Literal["leading part", "exact factors", "shared basis"]:
        """How a client's change travels: the case split of this method, which its layout and both halves look up."""
        if self.cuts:
            return "leading part"
        return "exact factors" if self.basis == "local" else "shared basis"
