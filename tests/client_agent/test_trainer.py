"""The trainer on a tiny real model: exact steps between versions, updates that come out the same twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from client_agent.data import LocalSplit
from client_agent.errors import CannotTrain, UnfitData
from client_agent.trainer import Trainer, where
from fedgalore.data.examples import SplitFile, read_examples
from fedgalore.maths.compression import rounded
from fedgalore.model.spread import Spread
from fedgalore.model.task import TaskModel
from fedgalore.process.content_folder import hash_file
from fedgalore.replay import apply_aggregate
from fedgalore.sizing import SiteMemory, TextMemory
from fedgalore.spec.layout import AGGREGATE_FORMAT, WEIGHTS_FORMAT, aggregate_tensors, update_tensors, weights_tensors
from fedgalore.spec.plan import Dense, TrainingPlan
from fedgalore.training import TrainingStopped
from protos.codec import SafetensorsWriter, open_update
from tests.builders import a_spec
from tests.client_agent.conftest import write_reviews


@pytest.fixture(scope="module")
def task(tiny_model) -> TaskModel:
    return TaskModel.load(a_spec(), tiny_model)


@pytest.fixture
def trainer(task, tiny_model, tmp_path) -> Trainer:
    """Holding version 0."""
    trainer = Trainer("cpu", 1)
    trainer.open("job", a_spec(), task.plan, tiny_model, tmp_path / "held.weights")
    trainer.load(the_weights(task, tmp_path), "version 0")
    trainer.reset(0)
    return trainer


def the_weights(task, folder, version=0, weights=None) -> Path:
    """The coordinator's file of whole weights: by default those that the task holds."""
    metadata = {"format": WEIGHTS_FORMAT, "version": str(version)}
    tensors = weights_tensors(task.spec, task.plan, version)
    return write(folder / f"weights {version}", tensors, weights or task.weights(), **metadata)


def write(path, specs, tensors, **metadata):
    with SafetensorsWriter(path, specs, metadata) as writer:
        for name in specs:
            writer.write(name, tensors[name].numpy())
    return path


def reviews(folder, **options) -> LocalSplit:
    path = write_reviews(folder / "reviews.jsonl", **options)
    return LocalSplit(path, read_examples(SplitFile(path, text=("text",), label="label")))


def train(trainer, split, output, on_step=lambda step, loss: True):
    trainer.train(split, "a", None, None, on_step, output, output.with_suffix(".kept"))


def test_an_update_holds_what_the_plan_asks_for_and_comes_out_the_same_twice(trainer, task, tmp_path):
    split = reviews(tmp_path)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train(trainer, split, first)
    trainer.reset(0)
    train(trainer, split, second)
    assert hash_file(first) == hash_file(second)  # so a restarted agent's update counts as the same
    update = open_update(first)
    assert set(update.names) == set(update_tensors(a_spec(), task.plan, "a", 1))
    assert {key: update.metadata[key] for key in ("format", "job", "round", "client", "num_examples", "decay")} == {
        "format": "fedgalore.update.v1",
        "job": "job",
        "round": "1",
        "client": "a",
        "num_examples": "16",
        "decay": "1.0",
    }
    assert sorted(path.name for path in tmp_path.glob("*.draft")) == []


def test_cuts_give_the_servers_bits_which_a_checkpoint_proves(trainer, task, tmp_path):
    specs = aggregate_tensors(a_spec(), task.plan, ["a"], 1)
    weights, cuts = task.weights(), []
    for number in (1, 2):
        generator = torch.Generator().manual_seed(number)
        codes = {name: spec.quantization for name, spec in specs.items()}
        shapes = {name: code.shape if code else specs[name].shape for name, code in codes.items()}
        drawn = {name: torch.randn(shape, generator=generator) / 100 for name, shape in shapes.items()}
        change = {name: rounded(tensor, codes[name]).wire for name, tensor in drawn.items()}
        weights = apply_aggregate(weights, change, 0.99, task.plan, a_spec())
        metadata = {"format": AGGREGATE_FORMAT, "version": str(number), "decay": "0.99"}
        cuts.append(write(tmp_path / f"cut {number}", specs, change, **metadata))
    whole = the_weights(task, tmp_path, 2, weights)

    split = reviews(tmp_path)
    before = trainer.evaluate(split)
    for number, cut in enumerate(cuts, start=1):
        trainer.step(cut, f"version {number}")
    assert (trainer.held, trainer.unproven_steps) == ("version 2", 2)
    assert not trainer.proves(2, "0" * 64)
    assert trainer.unproven_steps == 2
    assert trainer.proves(2, hash_file(whole))
    assert trainer.unproven_steps == 0
    trainer.reset(2)
    stepped = trainer.evaluate(split)
    trainer.load(whole, "version 2")
    trainer.reset(2)
    assert trainer.evaluate(split) == stepped != before


def test_what_it_built_is_version_0_when_the_bits_are_the_servers(task, tiny_model, tmp_path):
    weights = the_weights(task, tmp_path)
    trainer = Trainer("cpu", 1)
    trainer.open("job", a_spec(), task.plan, tiny_model, tmp_path / "held.weights")
    assert not trainer.begin("0" * 64)
    assert trainer.held is None
    assert trainer.begin(hash_file(weights))
    assert trainer.held == hash_file(weights)

    split, first, second = reviews(tmp_path), tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train(trainer, split, first)
    trainer.reset(0)  # to what it began with, whatever training made of the model
    train(trainer, split, second)
    trainer.load(weights, "version 0")
    trainer.reset(0)
    train(trainer, split, tmp_path / "third.safetensors")
    assert hash_file(first) == hash_file(second) == hash_file(tmp_path / "third.safetensors")


def test_a_label_outside_the_range_stands_in_the_log_with_file_row_value_and_range(trainer, tmp_path):
    split = reviews(tmp_path, labels=(0, 77))
    with capture_logs() as logs, pytest.raises(UnfitData) as caught:
        train(trainer, split, tmp_path / "update.safetensors")
    (line,) = [line for line in logs if line["event"] == "examples_unfit"]
    for word in ("reviews.jsonl", "row 2", "77", "0 to 1"):
        assert word in f"{line['file']} {line['reason']}"
        assert word not in str(caught.value)


def test_numbers_that_explode_are_reported(task, tiny_model, tmp_path):
    broken = {name: weight * float("inf") for name, weight in task.weights().items()}
    trainer = Trainer("cpu", 1)
    trainer.open("job", a_spec(), task.plan, tiny_model, tmp_path / "held.weights")
    trainer.load(the_weights(task, tmp_path, weights=broken), "version 0")
    trainer.reset(0)
    with pytest.raises(CannotTrain, match="^the loss became .* before any training"):
        train(trainer, reviews(tmp_path), tmp_path / "update.safetensors")


def test_what_a_model_s_code_comes_upon_is_a_sentence_without_what_it_read(trainer, tmp_path):
    def broken(*_):
        raise KeyError("a patient's name")

    trainer._task.model.register_forward_pre_hook(broken)
    with pytest.raises(UnfitData, match=r"^the model fails on row after row alike \(KeyError\), so that"):
        trainer.evaluate(reviews(tmp_path))
    trainer._task.load_weights = broken
    with pytest.raises(UnfitData, match=r"^the code of the job's model failed \(KeyError\); the agent's log has"):
        train(trainer, reviews(tmp_path), tmp_path / "update.safetensors")


def test_training_stops_at_the_step_that_says_so(trainer, tmp_path):
    steps = []

    def on_step(step: int, loss: float) -> bool:
        steps.append(step)
        return False

    with pytest.raises(TrainingStopped):
        train(trainer, reviews(tmp_path), tmp_path / "update.safetensors", on_step)
    assert steps == [1]
    assert not (tmp_path / "update.safetensors").exists()


def test_another_plan_than_the_coordinators_is_refused(tiny_model, tmp_path):
    with pytest.raises(CannotTrain, match="trains other weights than the coordinator's plan"):
        Trainer("cpu", 1).open(
            "job", a_spec(), TrainingPlan((), (Dense("head", (2,)),)), tiny_model, tmp_path / "held.weights"
        )


def test_a_folder_without_a_model_and_a_missing_device_are_refused(task, tmp_path):
    with pytest.raises(CannotTrain, match="model"):
        Trainer("cpu", 1).open("job", a_spec(), task.plan, tmp_path, tmp_path / "held.weights")
    if not torch.cuda.is_available():
        with pytest.raises(CannotTrain, match="device: cuda is set"):
            Trainer("cuda", 1)


def test_a_job_lies_on_the_first_gpu_with_room_for_it_and_else_on_all():
    memory, spec = SiteMemory(gpu=100, texts=TextMemory(trained=1)), a_spec(data={"name": "a", "max_length": 50})
    needed = 100 + 2 * 50
    one, two = torch.device("cuda:0"), torch.device("cuda:1")
    assert where({}, memory, spec) == (torch.device("cpu"), None)
    assert where({one: 5}, memory, spec) == (one, None)
    assert where({one: needed - 1, two: needed}, memory, spec) == (two, None)
    rooms = {one: needed - 1, two: needed - 1}
    assert where(rooms, memory, spec)[1] == Spread(rooms, 100)


def test_a_damaged_weights_file_is_refused(trainer, tmp_path):
    (tmp_path / "damaged").write_bytes(b"\0" * 100)
    with pytest.raises(CannotTrain, match="safetensors"):
        trainer.load(tmp_path / "damaged", "version 1")


def test_a_file_that_cannot_be_read_is_told_without_its_path(trainer, tmp_path):
    with capture_logs() as logs, pytest.raises(CannotTrain) as caught:
        trainer.load(tmp_path / "gone", "version 1")
    assert str(caught.value) == "a file of this site cannot be used (No such file or directory)"
    assert str(tmp_path / "gone") in next(log["reason"] for log in logs if log["event"] == "file_unusable")


def test_what_a_client_keeps_is_what_its_next_round_starts_from(task, tiny_model, tmp_path):
    spec = a_spec(method={"state_sync": "local", "prior_steps": None})
    trainer = Trainer("cpu", 1)
    trainer.open("job", spec, task.plan, tiny_model, tmp_path / "held.weights")
    trainer.load(the_weights(task, tmp_path), "version 0")
    split = reviews(tmp_path)

    def update(kept_before, name: str):
        output, keep = tmp_path / f"{name}.update", tmp_path / f"{name}.kept"
        trainer.train(split, "a", None, kept_before, lambda *_: True, output, keep)
        return hash_file(output), keep

    forgetful, kept = update(None, "first")
    assert set(open_update(kept).names) == {
        f"{target.name}/{part}"
        for target in task.plan.targets
        for part in ("reference", "second_moment", "residual", "residue")
    } | {"classifier.weight/residue"}
    once, kept_once = update(kept, "once")
    twice, kept_twice = update(kept, "twice")
    assert once == twice != forgetful  # a round that is trained twice starts from the same
    assert hash_file(kept_once) == hash_file(kept_twice) != hash_file(kept)


def test_a_round_after_a_rollback_learns_at_the_rate_of_the_rounds_behind_it(task, tiny_model, tmp_path):
    spec = a_spec(local={"learning_rate": None}, rounds={"count": 4}, method={"state_sync": "reset"})
    plan = TaskModel.load(spec, tiny_model).plan
    trainer = Trainer("cpu", 1)
    trainer.open("job", spec, replace(plan, size=7 * plan.size), tiny_model, tmp_path / "held.weights")
    trainer.load(the_weights(task, tmp_path), "version 0")
    assert trainer._open_task().plan.size == 7 * plan.size  # the coordinator's number, whatever this processor finds

    def update(version: int, behind: int) -> str:
        trainer.reset(version, behind)
        trainer.train(reviews(tmp_path), "a", None, None, lambda *_: True, tmp_path / "update", tmp_path / "kept")
        return hash_file(tmp_path / "update")

    assert update(3, 1) == update(3, 1) != update(3, 3)


def test_a_round_that_is_tried_again_gives_the_same_file(trainer, tmp_path):
    split = reviews(tmp_path)
    outputs = [tmp_path / f"{number}.safetensors" for number in (1, 2)]
    for output in outputs:
        trainer.train(split, "a", None, None, lambda *_: True, output, tmp_path / "kept")
        trainer.reset(0)
    assert hash_file(outputs[0]) == hash_file(outputs[1])
    assert open_update(outputs[0]).metadata["round"] == "1"  # counts committed rounds


def test_a_file_that_is_changed_meanwhile_is_named(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("fedgalore.data.examples.MOST_HELD", 100)  # so that rows are read when they are asked for
    split = reviews(tmp_path)
    split.path.write_text("{}")
    with capture_logs() as logs, pytest.raises(UnfitData, match="^an example of this site cannot be read; the agent"):
        train(trainer, split, tmp_path / "update.safetensors")
    assert any("reviews.jsonl: was changed while it was in use; start again" in line.get("reason", "") for line in logs)


def test_a_restarted_agent_goes_on_from_the_version_on_its_disk(trainer, task, tiny_model, tmp_path):
    again = Trainer("cpu", 1)
    again.open("job", a_spec(), task.plan, tiny_model, tmp_path / "held.weights")
    assert (again.held, again.unproven_steps) == ("version 0", 0)
    assert again.runs("job", a_spec(), task.plan)
    assert not again.runs("job", a_spec(local={"steps": 1}), task.plan)  # which nobody would see the difference of
    assert not again.runs("job", a_spec(), replace(task.plan, size=1.0))
    again.reset(0)
    split = reviews(tmp_path)
    assert again.evaluate(split) == trainer.evaluate(split)
