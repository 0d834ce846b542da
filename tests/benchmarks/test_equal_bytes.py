"""Quality under a budget of bytes, and bytes until a target, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import equal_bytes


def a_run(*points: tuple[float, float, float]) -> dict[str, Any]:
    """From megabytes up and down, and accuracy, of each version."""
    return {
        "curve": [
            {"up_bytes": 1e6 * up, "down_bytes": 1e6 * down, "validation": {"accuracy": accuracy}}
            for up, down, accuracy in points
        ]
    }


OURS = [a_run((0, 0, 0.1), (10, 10, 0.5), (20, 20, 0.9)), a_run((0, 0, 0.1), (10, 10, 0.7), (20, 20, 0.7))]
LORA = [a_run((0, 0, 0.1), (30, 50, 0.5)), a_run((0, 0, 0.1), (30, 50, 0.7))]


@pytest.mark.parametrize(
    ("megabytes", "quality"), [(0, (0.1, 0.1)), (20, (0.5, 0.7)), (30, (0.7, 0.7)), (40, (0.9, 0.7)), (99, (0.9, 0.7))]
)
def test_quality_under_a_budget_lies_between_two_versions(megabytes: float, quality: tuple[float, ...]) -> None:
    assert equal_bytes.under(equal_bytes.curve(OURS, "accuracy"), megabytes) == pytest.approx(quality)


@pytest.mark.parametrize(("target", "megabytes"), [(0.1, 0), (0.6, 20), (0.7, 30), (0.81, None)])
def test_bytes_to_a_target_are_those_of_the_seeds_mean(target: float, megabytes: float | None) -> None:
    found = equal_bytes.until(equal_bytes.curve(OURS, "accuracy"), target)
    assert found == (None if megabytes is None else pytest.approx(megabytes))


def test_where_less_is_better_the_curve_is_read_downwards() -> None:
    losses = equal_bytes.curve([a_run((0, 0, 4.0), (10, 0, 2.0), (20, 0, 1.0))], "accuracy")
    assert equal_bytes.until(losses, 1.5, sign=-1) == 15
    assert equal_bytes.until(losses, 0.5, sign=-1) is None


def test_a_row_compares_at_what_the_default_sends_in_the_whole_job() -> None:
    runs = {equal_bytes.DEFAULT: OURS, "fedit r8": LORA, "fedavg": []}
    assert equal_bytes.row("suite", runs, ["fedit r8"], "accuracy", 0.35) == [
        "suite",
        "40",
        "80.0 ± 14.1",
        "35.0 ± 7.1 (fedit r8)",
        "",
        "35",
        "10",
        "40 (fedit r8)",
        "",
    ]
    alone = equal_bytes.row("suite", {equal_bytes.DEFAULT: OURS[:1], "fedit r8": LORA}, ["fedit r8"], "accuracy", 0.35)
    assert alone is not None and alone[2] == "90.0 (one seed)"
    assert equal_bytes.row("suite", {"fedit r8": LORA}, ["fedit r8"], "accuracy", 0.3) is None
