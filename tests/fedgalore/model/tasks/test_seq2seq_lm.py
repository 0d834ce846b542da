"""Encoders that read and decoders that write: what the decoder begins with, what it is given, how far it writes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from fedgalore.evaluation import evaluate
from fedgalore.model.exact_match import check_exact_match
from fedgalore.model.generation import generate
from fedgalore.model.inputs import IGNORED, TaskError
from fedgalore.model.task import TaskModel
from tests.fedgalore.conftest import configure, questions, translator


@pytest.fixture(scope="module")
def tiny_bart(tiny_bert, tmp_path_factory):
    """A BART whose decoder begins with the end token and then writes `[CLS]`, as its folder says."""
    folder = tmp_path_factory.mktemp("models") / "bart"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BartConfig(
            **sizes,
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=32,
            init_std=0.5,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            decoder_start_token_id=3,
            forced_bos_token_id=2,
        )
        transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny_t5", "tiny_bart"])
def folder(request):
    return request.getfixturevalue(request.param)


def loaded(folder, **sections) -> TaskModel:
    task = TaskModel.load(translator(**sections), folder)
    task.model.eval()
    return task


def test_prompts_are_read_and_completions_are_labels(folder):
    task = loaded(folder)
    tokenizer = task.inputs.tokenizer
    batch = task.collate([{"prompt": "the rain", "completion": "music today"}, {"prompt": "a", "completion": "food"}])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    first, second = ([label for label in row if label != IGNORED] for row in batch["labels"].tolist())
    assert tokenizer.decode(first, skip_special_tokens=True) == "music today"
    assert tokenizer.decode(second, skip_special_tokens=True) == "food"
    assert first[-1] == second[-1] == tokenizer.eos_token_id
    assert batch["labels"][1, len(second) :].tolist() == [IGNORED]
    assert batch["attention_mask"].sum(1).tolist() == [len(row) for row in tokenizer(["the rain", "a"])["input_ids"]]


@torch.no_grad()
def by_hand(task: TaskModel, prompt: str, max_new_tokens: int) -> str:
    """The most likely token by a whole forward pass, again and again; the first and the last may be given."""
    settings = task.model.generation_config
    written = [task.model.config.decoder_start_token_id]
    source = torch.tensor([task.inputs.tokenizer(prompt)["input_ids"]])
    for number in range(max_new_tokens):
        logits = task.model(input_ids=source, decoder_input_ids=torch.tensor([written])).logits[0, -1]
        first = settings.forced_bos_token_id if number == 0 else None
        last = settings.forced_eos_token_id if number == max_new_tokens - 1 else None
        token = next((given for given in (last, first) if given is not None), int(logits.argmax()))
        if token == task.inputs.tokenizer.eos_token_id:
            break
        written.append(token)
    return str(task.inputs.tokenizer.decode(written[1:], skip_special_tokens=True))


def test_answers_are_the_decoders_alone_whatever_the_padding(folder):
    task = loaded(folder)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for weight, _ in task.targets().values():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    prompts = ["rain", "the sun wind", "a song some drum choir tune more bread soup"]
    answers = generate(task, prompts, 8)
    assert answers == [by_hand(task, prompt, 8) for prompt in prompts]
    assert any(answers)


def test_exact_match_compares_the_answers(tiny_t5):
    wanted = {"exact_match": "text", "max_new_tokens": 4}
    task = loaded(tiny_t5, evaluation=wanted)
    examples = questions(6, 0)
    right = [e | {"completion": answer or "food"} for e, answer in zip(
        examples, generate(task, [e["prompt"] for e in examples], 4), strict=True
    )]  # fmt: skip
    measured = evaluate(task, right)
    metrics = getattr(measured, "metrics", measured)
    assert metrics["exact_match"] == sum(bool(e["completion"] != "food") for e in right) / 6 > 0


def test_an_answer_takes_no_room_from_its_prompt_and_is_no_longer_than_the_model_writes(tiny_bart):
    spec = translator(data={"max_length": 64}, evaluation={"exact_match": "text", "max_new_tokens": 40})
    task = TaskModel.load(spec, tiny_bart)
    with pytest.raises(TaskError, match=r"evaluation\.max_new_tokens: 40 exceeds the 32 tokens .* take at most 32"):
        check_exact_match(task, questions(2, 0))
    task.model.eval()
    assert len(generate(task, ["rain " * 60], 32)) == 1


def test_a_decoder_alone_is_refused_in_a_sentence(tiny_gpt2):
    with pytest.raises(
        TaskError, match=r"transformers loads for seq2seq-lm: .*GPT2Config.*AutoModelForSeq2SeqLM"
    ) as caught:
        TaskModel.load(translator(), tiny_gpt2)
    assert len(str(caught.value)) < 250


def test_a_model_that_does_not_say_what_its_decoder_begins_with_is_refused(tiny_t5, tmp_path):
    copy = Path(shutil.copytree(tiny_t5, tmp_path / "t5"))
    configure(copy, decoder_start_token_id=None)
    generation = copy / "generation_config.json"
    generation.write_text(json.dumps({"pad_token_id": 0, "eos_token_id": 3}))
    with pytest.raises(TaskError, match=r"model\.source: .*no decoder_start_token_id, with which the decoder begins"):
        TaskModel.load(translator(), copy)
