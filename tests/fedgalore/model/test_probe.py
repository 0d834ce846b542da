"""What a model is tried on before any site is asked, and what the trial leaves behind: nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedgalore.model.generation import setting_at_fault, written
from fedgalore.model.inputs import TaskError
from fedgalore.model.probe import plain_questions, probe
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.writing import WritingTask
from tests.fedgalore.conftest import classifier, configure, image_classifier, language_model


@pytest.mark.parametrize("source", ["tiny_bert", "tiny_gpt2", "tiny_vit", "tiny_dinov2"])
def test_models_pass_and_are_as_before(source: str, request: pytest.FixtureRequest) -> None:
    specs = {"tiny_bert": classifier, "tiny_gpt2": language_model}
    task = TaskModel.load(specs.get(source, image_classifier)(), request.getfixturevalue(source))
    task.model.register_buffer("seen", torch.zeros(1))  # as running means are

    def see(module: torch.nn.Module, *_: object) -> None:
        module.get_buffer("seen").add_(float(module.training or moves_always))

    moves_always = False
    task.model.register_forward_hook(see)
    task.model.eval()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    probe(task)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert not task.model.training
    moves_always = True
    with pytest.raises(TaskError, match=r"an evaluation changes seen of \w+, so that its answers hang on those before"):
        probe(task)


def test_a_model_with_fewer_positions_than_it_says_is_refused_with_the_number(tiny_bert: Path) -> None:
    task = TaskModel.load(classifier(data={"name": "d", "max_length": 30}), tiny_bert)
    embeddings = task.model.bert.embeddings
    embeddings.position_embeddings = torch.nn.Embedding(21, 32)
    with pytest.raises(TaskError, match=r"data\.max_length: the model takes texts of at most 21 tokens; lower it"):
        probe(task)
    assert task.inputs.max_length == 30


def test_a_model_that_fails_is_refused_with_what_it_failed_on(tiny_bert: Path) -> None:
    task = TaskModel.load(classifier(), tiny_bert)

    def no_two(module: torch.nn.Module, inputs: tuple[()], named: dict[str, torch.Tensor]) -> None:
        if len(named["input_ids"]) > 1:
            raise IndexError("Cannot handle batch sizes > 1\nmore")

    task.model.register_forward_pre_hook(no_two, with_kwargs=True)
    with pytest.raises(TaskError, match=r"model\.source: the model fails on .* \(IndexError: Cannot handle .*> 1\);"):
        probe(task)


def test_numbers_that_are_not_finite_are_refused(tiny_bert: Path) -> None:
    task = TaskModel.load(classifier(), tiny_bert)
    with torch.no_grad():
        task.model.classifier.weight.fill_(torch.nan)
    with pytest.raises(TaskError, match="its answer is not a number"):
        probe(task)


def test_a_model_that_cannot_go_back_is_refused(tiny_vit: Path) -> None:
    task = TaskModel.load(image_classifier(), tiny_vit)
    task.model.classifier.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(TaskError, match="the model fails on a step of training"):
        probe(task)


def test_the_tokenizer_s_file_is_as_before(tiny_bert: Path, tmp_path: Path) -> None:
    task = TaskModel.load(classifier(), tiny_bert)
    probe(task)
    task.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["padding"] is None


def canine() -> torch.nn.Module:
    return transformers.CanineModel(
        transformers.CanineConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_hash_buckets=16
        )
    )


def funnel() -> torch.nn.Module:
    return transformers.FunnelBaseModel(
        transformers.FunnelConfig(vocab_size=25, d_model=16, n_head=2, d_head=8, d_inner=16, block_sizes=[1, 1, 1])
    )


@pytest.mark.parametrize("make", [canine, funnel])
def test_models_that_shorten_texts_take_the_shortest(make: Any, tiny_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    with torch.random.fork_rng():
        make().save_pretrained(tmp_path)
    spec = {"data": {"name": "d", "max_length": 16}, "method": {"kind": "fedavg"}}
    probe(TaskModel.load(classifier(**spec), tmp_path))


def test_a_model_that_is_to_write_is_let_write(tiny_gpt2: Path) -> None:
    task = TaskModel.load(language_model(evaluation={"exact_match": "text", "max_new_tokens": 8}), tiny_gpt2)
    probe(task)
    task.model.prepare_inputs_for_generation = None
    with pytest.raises(
        TaskError, match=r"the model fails on writing answers to prompts of unequal lengths \(TypeError"
    ):
        probe(task)
    whole = language_model(evaluation={"exact_match": "text", "max_new_tokens": 32})
    with pytest.raises(TaskError, match=r"evaluation\.max_new_tokens: 32 leaves no room"):
        probe(task.under(whole))


def test_a_setting_that_no_answers_can_be_written_with_is_named(tiny_gpt2: Path) -> None:
    task = TaskModel.load(language_model(), tiny_gpt2)
    assert isinstance(task.task, WritingTask)
    questions, config = plain_questions(task, task.task), task.model.generation_config
    wrong = {"stop_strings": ["rain"], "repetition_penalty": -1.0, "prompt_lookup_num_tokens": 3}
    for name, value in wrong.items():
        setattr(config, name, value)
        assert setting_at_fault(task, questions, 2) == f"{name}: {value!r}"
        assert getattr(config, name) == value
        setattr(config, name, None)
    config.prompt_lookup_num_tokens = 3
    with pytest.raises(
        TaskError, match=r"generation_config\.json says prompt_lookup_num_tokens: 3, with which no answers"
    ):
        probe(task)
    with pytest.raises(ValueError, match=r"batch_size = 1"):
        written(task, questions, 2)


def test_a_model_that_sees_what_it_is_to_predict_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "bert"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(vocab_size=len(tokenizer), is_decoder=True, **sizes)
        transformers.BertLMHeadModel(config).save_pretrained(folder)
    spec = language_model(data={"name": "d", "max_length": 16})
    probe(TaskModel.load(spec, folder))
    configure(folder, is_decoder=False)
    with pytest.raises(
        TaskError, match=r"model\.source: BertLMHeadModel sees the words behind those that it is to pred"
    ):
        probe(TaskModel.load(spec, folder))
