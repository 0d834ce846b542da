"""The thread that trains, where its memory does not last."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import structlog
import torch

from client_agent.errors import CannotTrain, OutOfMemory
from client_agent.trainer import Trainer
from client_agent.training_thread import TrainingThread
from fedgalore.model.task import TaskModel
from tests.builders import a_spec
from tests.short_memory import room_for

MB = 2**20


async def test_what_does_not_fit_fails_and_gives_back_what_was_held(tiny_model: Path, tmp_path: Path) -> None:
    thread = TrainingThread("cpu", 1)
    plan = TaskModel.load(a_spec(), tiny_model).plan
    held: list[weakref.ref[torch.Tensor]] = []

    def grow(trainer: Trainer) -> None:
        model = trainer._task.model
        states = [torch.empty(8 * MB)]
        held.extend([weakref.ref(next(model.parameters())), weakref.ref(states[0])])
        while True:
            try:
                states.append(torch.zeros(8 * MB))
            except RuntimeError as error:
                raise CannotTrain("whatever was made of that") from error

    await thread.run(lambda trainer: trainer.open("job", a_spec(), plan, tiny_model, tmp_path / "held"))
    with room_for(128 * MB), pytest.raises(OutOfMemory, match=r"you tried to allocate 33554432 bytes") as caught:
        await thread.run(grow)
    assert caught.value.__context__ is None
    assert [each() for each in held] == [None, None]
    assert await thread.run(lambda trainer: trainer.job_id) is None  # so that the next task opens the model anew
    await thread.run(lambda trainer: trainer.open("job", a_spec(), plan, tiny_model, tmp_path / "held"))
    thread.close()


async def test_lines_of_the_log_from_the_thread_carry_the_task() -> None:
    thread = TrainingThread("cpu", 1)
    with structlog.contextvars.bound_contextvars(job="job-1", round=3):
        assert await thread.run(lambda trainer: structlog.contextvars.get_contextvars()) == {"job": "job-1", "round": 3}
    assert await thread.run(lambda trainer: structlog.contextvars.get_contextvars()) == {}
    thread.close()
