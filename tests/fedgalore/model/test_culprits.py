"""What a model raises on a batch becomes a sentence that names the row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fedgalore.data.examples import Example
from fedgalore.evaluation import evaluate
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound, Start
from fedgalore.simulation import Site, simulate
from fedgalore.training import Update, local_update
from tests.fedgalore.conftest import classifier, language_model, sentences


@pytest.fixture
def task(tiny_bert: Path) -> TaskModel:
    """Its model stumbles over the word "plum" (token 24), and over batches of exactly five."""
    task = TaskModel.load(classifier(), tiny_bert)

    def stumble(module: torch.nn.Module, inputs: tuple[()], named: dict[str, torch.Tensor]) -> None:
        if (named["input_ids"] == task.inputs.tokenizer.convert_tokens_to_ids("plum")).any():
            raise RuntimeError("index out of range in self\nand a long story")
        if len(named["input_ids"]) == 5:
            raise KeyError("five")

    task.model.register_forward_pre_hook(stumble, with_kwargs=True)
    return task


def test_training_and_evaluation_name_the_row(task: TaskModel) -> None:
    plain = [{"row": row, "text": "rain sun", "text_pair": None, "label": 0} for row in range(1, 10)]
    examples = [*plain, {"row": 17, "text": "a plum", "text_pair": None, "label": 1}]
    said = r"^row 17: the model fails on it \(RuntimeError: index out of range in self\); correct the data"
    with pytest.raises(TaskError, match=said):
        evaluate(task, examples)
    with pytest.raises(TaskError, match=said):
        local_update(LocalRound(task, "a", 1, Start(task.weights())), [examples[-1]])
    with pytest.raises(TaskError, match=said):
        evaluate(task, [examples[-1], examples[-1], *plain])  # though a whole batch fails


def test_where_each_row_fails_alike_the_model_or_the_machine_is_blamed(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise RuntimeError("index out of range in self")

    def broken(round: LocalRound, examples: Sequence[Example]) -> Update:
        monkeypatch.setattr(round.task.model, "forward", stumble)
        return local_update(round, examples)

    sites = [Site("north", sentences(4, 0)), Site("south", sentences(4, 1), local_update=broken)]
    said = (
        r"^south: train: the model fails on row after row alike \(RuntimeError: index out of range in self\), so that"
    )
    with pytest.raises(TaskError, match=said):
        simulate(classifier(), tiny_bert, sites)


def test_rows_that_fail_together_only_are_all_named(task: TaskModel) -> None:
    examples = [{**example, "text": "rain"} for example in sentences(5, 0)]
    with pytest.raises(TaskError, match=r"^rows 1, 2, 3, 4, 5 together: the model fails on it \(KeyError"):
        evaluate(task, examples)


def test_an_answer_that_cannot_be_written_names_its_row_too(tiny_gpt2: Path) -> None:
    task = TaskModel.load(language_model(evaluation={"exact_match": "text", "max_new_tokens": 2}), tiny_gpt2)

    def stumble(module: torch.nn.Module, inputs: tuple[()], named: dict[str, torch.Tensor]) -> None:
        if named.get("use_cache") and (named["input_ids"] == task.inputs.tokenizer.convert_tokens_to_ids("plum")).any():
            raise RuntimeError("no cache")

    task.model.register_forward_pre_hook(stumble, with_kwargs=True)
    examples = [{"row": row, "prompt": "rain", "completion": "a"} for row in range(1, 4)]
    evaluate(task, examples)
    examples[1]["prompt"] = "a plum"
    with pytest.raises(TaskError, match=r"^row 2: the model fails on it \(RuntimeError: no cache\)"):
        evaluate(task, examples)
    with pytest.raises(TaskError, match=r"^the model fails on row after row alike \(RuntimeError: no cache\)"):
        evaluate(task, [{**example, "prompt": "a plum"} for example in examples])
