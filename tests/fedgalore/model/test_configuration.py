"""What a download's configuration says: end and padding tokens, the kind of problem, how it generates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedgalore.model.exact_match import generate
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from tests.fedgalore.conftest import classifier, configure, language_model


@pytest.fixture
def gpt2_copy(tiny_gpt2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "gpt2"))


def generation(folder: Path, **values: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(values))


def saved(task: TaskModel, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    task.save(folder)
    path = folder / "generation_config.json"
    config = json.loads((folder / "config.json").read_text())
    return config, json.loads(path.read_text()) if path.exists() else {}


def test_the_download_ends_where_training_ended_and_where_the_base_model_did(gpt2_copy, tmp_path):
    generation(gpt2_copy, eos_token_id=[5, 6], pad_token_id=9)
    configure(gpt2_copy, eos_token_id=7, pad_token_id=9)
    config, generating = saved(TaskModel.load(language_model(), gpt2_copy), tmp_path / "out")
    assert config["eos_token_id"] == generating["eos_token_id"] == [3, 5, 6, 7]  # the tokenizer's is 3
    assert config["pad_token_id"] == generating["pad_token_id"] == 3
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (3, 3)
    assert loaded.generation_config.eos_token_id == [3, 5, 6, 7]


def test_an_end_token_alone_stays_a_number_and_one_outside_the_embeddings_is_left_out(gpt2_copy, tmp_path):
    generation(gpt2_copy, eos_token_id=[3, 50_256])
    config, generating = saved(TaskModel.load(language_model(), gpt2_copy), tmp_path / "out")
    assert config["eos_token_id"] == generating["eos_token_id"] == 3


def test_evaluation_stops_at_the_same_tokens(gpt2_copy):
    task = TaskModel.load(language_model(), gpt2_copy)
    [answer] = generate(task, ["rain sun"], 6)
    words = answer.split()
    second = task.inputs.tokenizer.convert_tokens_to_ids(words[1])
    first_of_it = words.index(words[1])
    generation(gpt2_copy, eos_token_id=second)
    [shorter] = generate(TaskModel.load(language_model(), gpt2_copy), ["rain sun"], 6)
    assert shorter.split() == words[:first_of_it]


def test_a_classifier_of_exclusive_classes_says_so(bert_copy, tmp_path):
    configure(bert_copy, problem_type="multi_label_classification", num_labels=7)
    config, generating = saved(TaskModel.load(classifier(), bert_copy), tmp_path / "out")
    assert config["problem_type"] == "single_label_classification"
    assert len(config["id2label"]) == 3
    assert not generating


def test_what_generate_ignores_is_taken_out_and_what_it_heeds_is_kept(gpt2_copy, tmp_path):
    idle = {"temperature": 0.6, "top_p": 0.9, "early_stopping": True, "output_scores": True, "pad_token_id": -1}
    idle |= {"use_cache": False, "cache_implementation": "static"}
    generation(gpt2_copy, repetition_penalty=1.1, eos_token_id=3, **idle)
    _, generating = saved(TaskModel.load(language_model(), gpt2_copy), tmp_path / "out")
    assert not {"temperature", "top_p", "early_stopping", "output_scores", "cache_implementation"} & generating.keys()
    assert generating["repetition_penalty"] == 1.1
    generation(gpt2_copy, do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=3)
    _, generating = saved(TaskModel.load(language_model(), gpt2_copy), tmp_path / "again")
    assert (generating["do_sample"], generating["temperature"], generating["top_p"]) == (True, 0.6, 0.9)


def test_a_contradiction_is_refused_in_words(gpt2_copy):
    generation(gpt2_copy, num_beams=2, num_return_sequences=3)
    with pytest.raises(TaskError, match=r"model\.source: .*`num_return_sequences` \(3\) has to be smaller"):
        TaskModel.load(language_model(), gpt2_copy)


def test_several_chat_templates_go_along(gpt2_copy, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2_copy)
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    tokenizer.save_pretrained(gpt2_copy)
    task = TaskModel.load(language_model(), gpt2_copy)
    task.save(tmp_path / "out")
    flat = tmp_path / "flat"  # an archive has no sub-folders
    flat.mkdir()
    for path in (tmp_path / "out").iterdir():
        if path.is_file():
            shutil.copy(path, flat)
    assert transformers.AutoTokenizer.from_pretrained(flat).chat_template == tokenizer.chat_template


def test_a_model_that_looks_for_one_end_token_in_the_text_is_told_the_tokenizer_s(tmp_path, tiny_gpt2):
    folder = tmp_path / "bart"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_gpt2)
    shape = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "max_position_embeddings": 32}
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, **shape
    )
    torch.manual_seed(0)
    transformers.BartModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config, _ = saved(TaskModel.load(classifier(), folder), tmp_path / "out")
    assert config["eos_token_id"] == 3
    assert (config["decoder_start_token_id"], config["bos_token_id"]) == (2, 1)


def test_a_model_that_counts_positions_from_another_padding_token_is_refused(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "roberta"))
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.RobertaConfig(vocab_size=len(tokens), pad_token_id=tokens.pad_token_id, **sizes)
    transformers.RobertaModel(config).save_pretrained(folder)
    TaskModel.load(classifier(), folder)
    configure(folder, pad_token_id=-1)
    with pytest.raises(TaskError, match=r"pad_token_id is -1 in config.json and 0 in the tokenizer, and RobertaFor"):
        TaskModel.load(classifier(), folder)


def test_a_model_answers_by_its_logits_whatever_else_it_was_told_to_put_out(gpt2_copy, tmp_path):
    told = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    configure(gpt2_copy, **told)
    task = TaskModel.load(language_model(), gpt2_copy)
    outputs = task.outputs(task.collate([{"row": 1, "prompt": "rain", "completion": "sun"}]))
    assert outputs.logits.ndim == 3 and outputs.attentions is outputs.hidden_states is None
    config, _ = saved(task, tmp_path / "out")
    assert not told.items() & config.items()
