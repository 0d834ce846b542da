"""The `method` of a job document: what each kind lets a user choose, with its defaults and what excludes what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from fedgalore.spec.strict import MANY, Identifier, Strict, Text

Rank = Annotated[int, Field(ge=1, le=4096)]
TargetModules = Annotated[
    tuple[Text, ...] | None,
    Field(max_length=1000, description="Suffixes of module names to train; default: all linear layers of the backbone"),
]
RankPattern = Annotated[
    dict[Text, Rank],
    Field(
        max_length=1000,
        description="Ranks of modules in place of `rank`, by suffix of the module's name; the longest suffix wins",
    ),
]
ClientRanks = Annotated[
    dict[Identifier, Rank],
    Field(max_length=10_000, description="Ranks of clients in place of `rank`, by the client's name"),
]


def _one_kind_of_rank(client_ranks: dict[str, int], rank_pattern: dict[str, int]) -> None:
    if client_ranks and rank_pattern:
        raise ValueError("client_ranks and rank_pattern cannot be combined; leave one of them out")


MOMENTUM = (
    "Share of the last aggregate in every round: clients move along it at each step, learn at what is left of their "
    "rates, and send their own change only (FedCM)"
)


class FedGaLoreSpec(Strict):
    """GaLore subspaces, with full-space aggregation and, where it is asked for, state alignment."""

    kind: Literal["fedgalore"] = "fedgalore"
    rank: Rank = Field(default=8, description="Columns of each basis")
    rank_pattern: RankPattern = Field(default={})
    client_ranks: ClientRanks = Field(default={})
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
    target_modules: TargetModules = None
    downlink_rank: int | None = Field(
        default=None,
        ge=0,
        le=4096,
        description="Rank the aggregate is cut to on its way down, in float16; what that leaves out goes with the next "
        "one; 0: exact; null: twelve times `rank` where it has full rank and that is smaller",
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> FedGaLoreSpec:
        _one_kind_of_rank(self.client_ranks, self.rank_pattern)
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


class FedAvgSpec(Strict):
    """Full fine-tuning of the target matrices, averaged: McMahan et al. 2017, arXiv 1602.05629."""

    kind: Literal["fedavg"]
    global_momentum: float = Field(default=0.0, ge=0, lt=1, description=MOMENTUM)
    target_modules: TargetModules = None

    @property
    def momentum(self) -> float:
        return self.global_momentum


class LoRASpec(Strict):
    """Low-rank adapters `W + scale B A`, A `(rank, in)` and B `(out, rank)`; the kinds differ in what is averaged.

    `fedit` averages A and B apart (arXiv 2305.05644), `ffa_lora` trains and averages B only (2403.12313), `flora` folds
    the exact mean of B A into the weights and starts new adapters (2409.05976), `fedex_lora` averages A and B and folds
    in what that leaves out (2410.09432).
    """

    kind: Literal["fedit", "ffa_lora", "flora", "fedex_lora"]
    rank: Rank = 8
    rank_pattern: RankPattern = Field(default={})
    client_ranks: ClientRanks = Field(default={})
    scale: float = Field(default=2.0, gt=0, le=1000, description="LoRA's alpha / rank")
    target_modules: TargetModules = None

    @property
    def momentum(self) -> float:
        """An adapter cannot move along the last aggregate."""
        return 0.0

    @model_validator(mode="after")
    def _ranks_can_be_averaged(self) -> LoRASpec:
        _one_kind_of_rank(self.client_ranks, self.rank_pattern)
        if self.client_ranks and self.kind != "flora":
            raise ValueError(
                f"client_ranks: {self.kind} averages factors, which needs equal ranks; take kind: flora or fedgalore"
            )
        return self


KINDS = ("fedgalore", "fedavg", "fedit", "ffa_lora", "flora", "fedex_lora")
CLIPPABLE = ("fedgalore", "fedavg", "flora")  # sum the clients' changes in the full space


def _method_kind(value: Any) -> str:
    kind = value.get("kind", "fedgalore") if isinstance(value, dict) else getattr(value, "kind", "")
    if not isinstance(kind, str):  # nobody knows how large it would be as text
        return ""
    return "lora" if kind in KINDS[2:] else kind


MethodSpec = Annotated[
    Annotated[FedGaLoreSpec, Tag("fedgalore")]
    | Annotated[FedAvgSpec, Tag("fedavg")]
    | Annotated[LoRASpec, Tag("lora")],
    Discriminator(
        _method_kind, custom_error_type="method_kind", custom_error_message=f"Input should be one of {', '.join(KINDS)}"
    ),
]
