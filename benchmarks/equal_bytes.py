"""Methods at equal bytes: how good each is under a budget, and what each sends until it is as good as a target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev

from benchmarks.suites import Result

DEFAULT = "fedgalore r8, no rate"
HEAD = (
    "suite",
    "MB",
    "fedgalore",
    "best LoRA method",
    "fedavg",
    "to reach",
    *("MB by fedgalore", "by LoRA", "by fedavg"),
)


@dataclass(frozen=True)
class Point:
    """A version on the way: what was sent until it stood, both ways and by all clients, and its quality per seed."""

    megabytes: float
    quality: tuple[float, ...]


def row(
    suite: str, runs: Mapping[str, Sequence[Result]], rivals: Sequence[str], metric: str, target: float, sign: int = 1
) -> list[str] | None:
    """A line of the table, on validation data; None where FedGaLore at its defaults has not run.

    The budget is what FedGaLore sends in the whole job. The rival is the LoRA method that is best under that budget.

    Args:
        runs: by entry, of equal seeds.
        rivals: names of entries, LoRA methods.
        sign: -1 where less is better.
    """
    curves = {name: curve(group, metric) for name, group in runs.items() if group}
    if DEFAULT not in curves or not any(name in curves for name in rivals):
        return None
    budget = curves[DEFAULT][-1].megabytes
    best = max((name for name in rivals if name in curves), key=lambda name: sign * mean(under(curves[name], budget)))
    dense = curves.get("fedavg")
    scale, digits = (100, 1) if metric == "accuracy" else (1, 3)

    def shown(values: Sequence[float]) -> str:
        spread = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else " (one seed)"
        return f"{scale * mean(values):.{digits}f}{spread}"

    lora = f"{shown(under(curves[best], budget))} ({best})"
    quality = [shown(under(curves[DEFAULT], budget)), lora, shown(under(dense, budget)) if dense else ""]
    needed = {name: until(points, target, sign) for name, points in curves.items()}
    lora_needs = first_of({name: needed[name] for name in rivals if name in needed})
    reached = [whole(needed[DEFAULT]), lora_needs, whole(needed["fedavg"]) if dense else ""]
    return [suite, f"{budget:.0f}", *quality, f"{scale * target:.{0 if scale == 100 else digits}f}", *reached]


def whole(reached: float | None) -> str:
    return "never" if reached is None else f"{reached:.0f}"


def first_of(needed: Mapping[str, float | None]) -> str:
    """What the one that needs least sends, with its name."""
    arrived = {name: megabytes for name, megabytes in needed.items() if megabytes is not None}
    if not arrived:
        return "never"
    best = min(arrived, key=lambda name: arrived[name])
    return f"{whole(arrived[best])} ({best})"


def curve(runs: Sequence[Result], metric: str) -> list[Point]:
    return [
        Point(
            (points[0]["up_bytes"] + points[0]["down_bytes"]) / 1e6,
            tuple(point["validation"][metric] for point in points),
        )
        for points in zip(*(run["curve"] for run in runs), strict=False)
    ]


def under(points: Sequence[Point], megabytes: float) -> tuple[float, ...]:
    """Quality per seed when so much was sent: between two versions on a straight line, at the end the last one's."""
    for before, after in pairwise(points):
        if after.megabytes > megabytes:
            part = max(0.0, (megabytes - before.megabytes) / (after.megabytes - before.megabytes))
            return tuple(a + part * (b - a) for a, b in zip(before.quality, after.quality, strict=True))
    return points[-1].quality


def until(points: Sequence[Point], target: float, sign: int = 1) -> float | None:
    """Megabytes sent until the seeds' mean is as good as the target; None: it never is."""
    return crossing(((point.megabytes, sign * mean(point.quality)) for point in points), sign * target)


def crossing(points: Iterable[tuple[float, float]], target: float) -> float | None:
    """Where a curve of (x, y) first reaches y = target, interpolated between its points; None: it never does."""
    before: tuple[float, float] | None = None
    for here in points:
        if here[1] >= target:
            if before is None:
                return here[0]
            part = (target - before[1]) / (here[1] - before[1])
            return before[0] + part * (here[0] - before[0])
        before = here
    return None
