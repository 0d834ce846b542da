"""Who is left out of a round, and whose change is shortened: by the norms of the clients' whole changes.

ALGORITHM, "Who counts how much".
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite, isnan, sqrt
from statistics import median_low

from fedgalore.maths.mean import squared_norm
from fedgalore.maths.parallel import in_order
from fedgalore.methods.halves import server_half
from fedgalore.rounds import ClientTensors, ServerRound
from fedgalore.spec.plan import TrainingPlan

NO_NORM = "a change holds NaN, infinite values or far too large ones: training diverged; lower local.learning_rate"


def screened(round: ServerRound, plan: TrainingPlan) -> tuple[ServerRound, dict[str, str]]:
    """The round without the clients whose changes are too long, and the reason for each; long ones are clipped.

    `server.drop_norm` and `server.clip_norm` are multiples of the median norm, of an even number of clients the shorter
    one in the middle; `privacy.clip_norm` is a norm. What weight decay took is not part of a change, nor are buffers,
    which no learning rate scales. Reads every update once.
    """
    drop, clip, privacy = round.spec.server.drop_norm, round.spec.server.clip_norm, round.spec.privacy
    if drop is None and clip is None and privacy is None:
        return round, {}
    norms = norms_of(round, plan)
    measured = [norm for norm in norms if isfinite(norm)]
    if not measured:
        return replace(round, clients=[]), {client.client: NO_NORM for client in round.clients}
    middle = median_low(measured)
    if privacy is not None:
        most, longest = inf, privacy.clip_norm
    elif middle == 0:  # most have changed nothing: there is nothing to compare with
        most, longest = inf, inf
    else:
        most, longest = (times * middle if times is not None else inf for times in (drop, clip))
    dropped, kept, clips = dict[str, str](), list[ClientTensors](), list[float]()
    for client, norm in zip(round.clients, norms, strict=True):
        if not isfinite(norm):
            dropped[client.client] = NO_NORM
        elif norm > most:
            times = f"{norm / middle:.3g} times as long as the median one (server.drop_norm: {drop:g})"
            dropped[client.client] = f"its change is {times}"
        else:
            kept.append(client)
            clips.append(longest / norm if norm > longest else 1.0)
    return replace(round, clients=kept, clips=tuple(clips)), dropped


def norms_of(round: ServerRound, plan: TrainingPlan) -> list[float]:
    """Of each client's whole change; infinite where it holds what is not finite, or is too large for float32."""
    return list(in_order(lambda client: _norm(round, client, plan), round.clients))


def _norm(round: ServerRound, client: ClientTensors, plan: TrainingPlan) -> float:
    half = server_half(round.spec)
    squared = sum(half.squared_norm(target, round, client) for target in plan.targets)
    squared += sum(squared_norm(client.whole(f"{item.name}/delta")) for item in plan.dense)
    return inf if isnan(squared) else sqrt(squared)
