"""A site's own noise: of every method and wire that it supports, what leaves is the cut change and fresh noise."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from fedgalore.deltas import decoded
from fedgalore.methods.halves import client_half
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound, Start
from fedgalore.site_noise import SiteNoise
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import kept_tensors, update_tensors
from fedgalore.training import TrainingError, Update, local_update
from tests.fedgalore.conftest import classifier, sentences
from tests.fedgalore.rounds import version_0

EXACTLY = {"bits": 32, "up_rank": 4096, "down_rank": 0}
LOCAL = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2}
JOBS: dict[str, dict[str, Any]] = {
    "fedgalore": {"method": {"kind": "fedgalore", "rank": 4, "state_sync": "reset"}, "wire": EXACTLY},
    "states of its own": {"method": {"kind": "fedgalore", "rank": 4, "state_sync": "local"}, "wire": EXACTLY},
    "fedavg": {"method": {"kind": "fedavg"}},
    **{kind: {"method": {"kind": kind}} for kind in ("fedit", "ffa_lora", "flora", "fedex_lora", "frlora", "fedsvd")},
}
QUICK = ("fedgalore", "fedavg", "fedit")
CLIP = 0.01


def a_job(name: str, **sections: Any) -> JobSpec:
    return classifier(local=LOCAL, **{**JOBS[name], **sections})


def update_of(task: TaskModel, spec: JobSpec, weights: dict[str, Tensor], z: float, kept: Any = None) -> Update:
    this = LocalRound(task.under(spec), "a", 1, Start(weights, kept=kept or {}))
    noise = SiteNoise(CLIP, z, lambda: None) if z else None
    return local_update(this, sentences(8, 1), noise=noise)


def vector(spec: JobSpec, task: TaskModel, update: Update, starts: dict[str, Tensor]) -> Tensor:
    """What an update says was moved, all of it in a row: changes, and adapters less what they started from."""
    client, plan = update.as_sent("a"), task.plan
    read = decoded(client.read, update_tensors(spec, plan, "a", 1))
    moved = [read(f"{item.name}/delta") for item in plan.dense]
    for target in plan.targets:
        parts = [part for part in ("lora_A", "lora_B") if f"{target.name}/{part}" in update.tensors]
        moved += [read(f"{target.name}/{part}") - starts[f"{target.name}/{part}"] for part in parts]
        if f"{target.name}/left" in update.tensors:
            moved.append(read(f"{target.name}/left") @ read(f"{target.name}/right"))
        elif not parts:
            moved.append(read(f"{target.name}/delta"))
    return torch.cat([part.double().flatten() for part in moved])


def starts_of(task: TaskModel, spec: JobSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapters that a round starts from, by name."""
    this = LocalRound(task.under(spec), "a", 1, Start(weights))
    this.task.load_weights(weights)
    starts = {}
    with client_half(spec).train(this) as training:
        for target in task.plan.targets:
            for moved, part in zip(reversed(training.moved(target)), ("lora_B", "lora_A"), strict=False):
                starts[f"{target.name}/{part}"] = moved.unmoved()
    return starts


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in JOBS]
)
def test_what_leaves_is_the_cut_change_and_noise(name: str, tiny_bert: Any) -> None:
    spec = a_job(name)
    assert spec.method.told_by_parameters
    task, weights = version_0(spec, tiny_bert)
    starts = starts_of(task, spec, weights)
    plain = vector(spec, task, update_of(task, spec, weights, 0), starts)
    assert float(plain.norm()) > 2 * CLIP
    silent, noisy = update_of(task, spec, weights, 1e-6), update_of(task, spec, weights, 3.0)
    cut = vector(spec, task, silent, starts)
    torch.testing.assert_close(cut, plain * CLIP / plain.norm(), rtol=0, atol=1e-6)
    assert float(cut.norm()) <= CLIP * (1 + 1e-4)  # what float32 makes of it is no change of a site's
    drawn = vector(spec, task, noisy, starts) - cut
    assert float(drawn.std()) == pytest.approx(3 * CLIP, rel=0.05)
    assert abs(float(drawn.mean())) < 5 * 3 * CLIP / sqrt(len(drawn))
    assert noisy.metrics == {}


def test_the_same_update_never_has_the_same_noise(tiny_bert: Any) -> None:
    spec = a_job("fedavg")
    task, weights = version_0(spec, tiny_bert)
    first, again = (vector(spec, task, update_of(task, spec, weights, 1.0), {}) for _ in range(2))
    assert float((first - again).abs().min()) > 0


def test_what_a_client_keeps_is_made_of_what_has_noise(tiny_bert: Any) -> None:
    """At 4 bits and a low rank, told and kept come to the covered change: nothing is kept that has none."""
    spec = a_job("fedgalore", wire={"bits": 4, "up_rank": 2})
    task, weights = version_0(spec, tiny_bert)
    update = update_of(task, spec, weights, 5.0)
    kept = decoded(update.kept.__getitem__, kept_tensors(spec, task.plan, "a"))
    read = decoded(update.tensors.__getitem__, update_tensors(spec, task.plan, "a", 1))
    target = task.plan.targets[0]
    whole = read(f"{target.name}/left") @ read(f"{target.name}/right") + kept(f"{target.name}/residue")
    assert float(whole.std()) == pytest.approx(5 * CLIP, rel=0.15)


def test_noise_is_paid_for_before_it_is_drawn_and_nothing_is_where_there_is_no_norm(tiny_bert: Any) -> None:
    spec = a_job("fedavg")
    task, weights = version_0(spec, tiny_bert)
    this = LocalRound(task.under(spec), "a", 1, Start(weights))

    def refuse() -> None:
        raise OSError("no line")

    with pytest.raises(OSError, match="no line"):
        local_update(this, sentences(8, 1), noise=SiteNoise(CLIP, 1.0, refuse))
    paid: list[int] = []

    def on_step(step: int, loss: float) -> bool:
        with torch.no_grad():
            next(iter(task.dense().values()))[0] = float("nan")
        return True

    with pytest.raises(TrainingError, match="the change became infinite or NaN"):
        local_update(this, sentences(4, 1), on_step, SiteNoise(CLIP, 1.0, lambda: paid.append(1)))
    assert paid == []


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "fedgalore", "state_sync": "ajive"},
        {"kind": "fedgalore", "complement": 0},
        {"kind": "fedgalore", "basis": "shared"},
    ],
)
def test_what_sends_more_than_its_parameters_tell_cannot_be_covered(method: dict[str, Any]) -> None:
    assert not classifier(method=method).method.told_by_parameters
