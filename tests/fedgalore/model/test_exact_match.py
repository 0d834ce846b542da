"""Exact match: what counts as the same answer, greedy generation against a loop by hand, and what is refused."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedgalore.data.sample import evaluated
from fedgalore.evaluation import evaluate
from fedgalore.model.exact_match import check_exact_match, last_number, matches
from fedgalore.model.generation import generate
from fedgalore.model.inputs import TaskError
from fedgalore.model.remarks import remarks
from fedgalore.model.task import TaskModel
from fedgalore.simulation import Site, simulate
from fedgalore.training import TrainingStopped
from tests.builders import a_spec
from tests.fedgalore.conftest import FILLERS, WORDS, questions

# --- numbers and texts ---------------------------------------------------------------------------------------

NUMBERS = st.decimals(min_value=-(10**9), max_value=10**9, allow_nan=False, allow_infinity=False, places=3)


def written(value: Decimal, sign: str, currency: str, thousands: bool, zeros: int, tail: str) -> str:
    """A number as people write it."""
    digits = format(abs(value), ",f" if thousands else "f") + "0" * zeros
    minus = sign if value < 0 else ""
    return f"{minus}{currency}{digits}{tail}"


@given(
    NUMBERS,
    st.sampled_from(["-", "−"]),
    st.sampled_from(["", "$"]),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from(["", ".", "%", " %", ".\n", "!", " apples", "kg."]),
    st.sampled_from(["", "so 7 and 8, then ", "x = ", "**", "(", "#### 3 but ####", "The answer is: "]),
)
def test_a_number_is_read_however_it_is_written(value, sign, currency, thousands, zeros, tail, before):
    assert last_number(before + written(value, sign, currency, thousands, zeros, tail)) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 999))
def test_the_last_number_counts_and_after_a_mark_the_first(first, second):
    assert last_number(f"{first} + {second} apples") == second
    assert last_number(f"{second} #### 1 #### {first} or {second}") == first


@given(st.text())
def test_any_text_has_a_finite_number_or_none(text):
    number = last_number(text)
    assert number is None or number.is_finite()


@given(st.text(alphabet="0123456789,.-−$%#eE +x\n", max_size=40))
def test_any_jumble_of_signs_has_a_finite_number_or_none(text):
    number = last_number(text)
    assert number is None or number.is_finite()
    assert number is not None or not any("0" <= sign <= "9" for sign in text.rpartition("####")[2])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3.50", "3.5"),
        ("1,234,567.", "1234567"),
        ("12,34", "34"),
        ("1,2345", "2345"),
        ("one of 1,2,3", "3"),
        (".5", "0.5"),
        ("-.5 %", "-0.5"),
        ("$-5", "-5"),
        ("-$1,000.10", "-1000.1"),
        ("10-5", "5"),
        ("10 - 5", "5"),
        ("from 3% to -4%", "-4"),
        ("(2)-1", "1"),
        ("version 1.2.3", "3"),
        ("6.02e23", "6.02e23"),
        ("1E-3.", "0.001"),
        ("4 eggs", "4"),
        ("5e3x", "3"),
        ("١٢", "12"),
        ("-0", "0"),
    ],
)
def test_numbers_in_their_surroundings(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "-", "$", "####", "5 ####", "5 #### none", "²"])
def test_no_number(text):
    assert last_number(text) is None


@pytest.mark.parametrize(
    ("generated", "completion", "right"),
    [
        ("She sells 16 - 3 - 4 = 9 eggs for $2 each: 9 * 2 = 18.\n#### 18", "... <<9*2=18>>18 a day\n#### 18", True),
        ("The answer is $18.00.", "9 * 2 = 18\n#### 18", True),
        ("#### 1,800", "#### 1800", True),
        ("#### 18 eggs in 7 days", "#### 18", True),
        ("#### 81", "#### 18", False),
        ("18, no: ####", "#### 18", False),
        ("I do not know", "#### 18", False),
        ("-18", "18", False),
    ],
)
def test_answers_to_word_problems_are_compared_by_their_number(generated, completion, right):
    assert matches("number", generated, completion) is right


@pytest.mark.parametrize(
    ("generated", "completion", "right"),
    [
        (" Food\n", "food", True),
        ("straße  am\tfluss", "STRASSE am Fluss", True),
        ("ｆｏｏｄ", "food", True),
        ("cafe\u0301", "café", True),
        ("food.", "food", False),
        ("fo od", "food", False),
        ("", "food", False),
    ],
)
def test_answers_in_words_are_compared_without_case_width_and_white_space(generated, completion, right):
    assert matches("text", generated, completion) is right


# --- generation ----------------------------------------------------------------------------------------------


def language_model(**sections):
    defaults = {
        "model": {"source": "m", "task": "causal-lm", "num_labels": None},
        "data": {"max_length": 24},
        "method": {"rank": 4},
        "rounds": {"count": 8},
        "local": {"steps": 6, "batch_size": 8, "learning_rate": 1e-2},
        "evaluation": {"exact_match": "text", "max_new_tokens": 8},
    }
    merged = {name: {**defaults.get(name, {}), **values} for name, values in sections.items()}
    return a_spec(**{**defaults, **merged})


@pytest.fixture(scope="module")
def tiny_llama(tiny_gpt2, tmp_path_factory):
    """A Llama of two layers with grouped keys, and the tokenizer of the GPT-2."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_gpt2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            initializer_range=0.3,
            bos_token_id=3,
            eos_token_id=3,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def loaded(request):
    """Tasks on either model, with weights large enough that answers are no repetition of the prompt's last token."""
    folder = request.getfixturevalue(request.param)

    def load(**sections) -> TaskModel:
        task = TaskModel.load(language_model(**sections), folder)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for weight, _ in task.targets().values():
                weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
        task.model.eval()
        return task

    return load


VOCABULARY = [*FILLERS, *(word for group in WORDS.values() for word in group)]


def prompts_of(*lengths: int) -> list[str]:
    return [" ".join(VOCABULARY[(3 * n + 5 * i) % len(VOCABULARY)] for i in range(n)) for n in lengths]


@torch.no_grad()
def by_hand(task: TaskModel, prompt: str, max_new_tokens: int) -> str:
    """The most likely token by a whole forward pass, again and again."""
    tokens = task.inputs.tokenizer(prompt)["input_ids"][-(task.inputs.max_length - max_new_tokens) :]
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        logits = task.model(input_ids=torch.tensor([tokens + answer])).logits[0, -1]
        token = int(logits.argmax())
        if token == task.inputs.tokenizer.eos_token_id:
            break
        answer.append(token)
    return str(task.inputs.tokenizer.decode(answer))


def test_generation_is_the_argmax_of_whole_passes_whatever_the_padding(loaded):
    task = loaded()
    prompts = prompts_of(1, 2, 3, 5, 8, 13, 16)
    answers = generate(task, prompts, 8)
    assert answers == [by_hand(task, prompt, 8) for prompt in prompts]
    assert answers == [generate(task, [prompt], 8)[0] for prompt in prompts]
    assert len(set(answers)) > 3
    assert max(len(answer.split()) for answer in answers) > 3


def test_a_long_prompt_loses_its_beginning_and_the_model_sees_no_more_than_it_has_positions_for(loaded):
    task = loaded(data={"max_length": 512})
    assert task.inputs.max_length == 32
    (long,) = prompts_of(100)
    end = " ".join(long.split()[-20:])
    answers = generate(task, [long, end, "rain"], 12)
    assert answers[0] == answers[1] == by_hand(task, long, 12)
    assert answers[2] == by_hand(task, "rain", 12)


def test_an_answer_ends_at_the_end_token_and_the_others_go_on(loaded):
    """The end token is forced to come after `song` and nowhere else; no answer holds `song`."""
    task = loaded()
    song, end = task.inputs.tokenizer("song")["input_ids"][0], task.inputs.tokenizer.eos_token_id

    def end_after_song(module, arguments, keywords, output):
        output.logits[..., song] = -torch.inf
        output.logits[..., -1, end] = torch.where(keywords["input_ids"][:, -1] == song, torch.inf, -torch.inf)

    handle = task.model.register_forward_hook(end_after_song, with_kwargs=True)
    short, long = generate(task, ["the song", "the rain today"], 8)
    handle.remove()
    assert short == ""
    assert len(long.split()) == 8


def test_a_prompt_without_tokens_begins_a_text(loaded):
    task = loaded()
    assert generate(task, [""], 8) == [by_hand(task, "[SEP]", 8)]


SAMPLED = {"do_sample": True, "temperature": 5.0, "max_length": 3}
PENALTIES = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "num_beams": 4, "min_new_tokens": 4}


@pytest.mark.parametrize("settings", [SAMPLED, SAMPLED | PENALTIES], ids=["sampled", "penalties"])
def test_answers_are_those_of_the_download_without_sampling(loaded, tmp_path, capfd, recwarn, settings):
    task = loaded()
    prompts = prompts_of(2, 5, 9)
    plain = generate(task, prompts, 8)
    task.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    again = TaskModel.load(task.spec, tmp_path)
    again.model.eval()
    before = again.model.generation_config.to_dict()
    side = again.inputs.tokenizer.padding_side
    answers = generate(again, prompts, 8)
    assert (answers == plain) is (settings is SAMPLED)
    assert again.model.generation_config.to_dict() == before
    assert before["temperature"] == 5
    assert again.inputs.tokenizer.padding_side == side
    again.save(tmp_path / "download")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "download")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "download")
    for prompt, answer in zip(prompts, answers, strict=True):
        asked = tokenizer(prompt, return_tensors="pt")
        written = model.generate(**asked, do_sample=False, max_new_tokens=8)[0, asked["input_ids"].shape[1] :].tolist()
        end = tokenizer.eos_token_id
        assert tokenizer.decode(written[: written.index(end)] if end in written else written) == answer
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_how_to_get_the_judged_answers_is_said(tiny_gpt2, tmp_path):
    shutil.copytree(tiny_gpt2, tmp_path, dirs_exist_ok=True)
    spec = language_model(data={"max_length": 512})
    assert remarks(TaskModel.load(language_model(evaluation={"exact_match": None}), tmp_path)) == ()
    call = "evaluations judge the answers that generate(do_sample=False, max_new_tokens=8) of the download writes"
    assert remarks(TaskModel.load(spec, tmp_path))[-1] == call
    settings = SAMPLED | {"num_beams": 4, "repetition_penalty": 1.5}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    cut, said = remarks(TaskModel.load(spec, tmp_path))
    assert cut.startswith("texts are cut to 32 tokens")
    assert said == (
        f"{call}, with num_beams=4, repetition_penalty=1.5 of its generation_config.json; "
        "generate() alone goes by do_sample=True, max_length=3, temperature=5.0 and writes others"
    )
    (tmp_path / "generation_config.json").write_text('{"max_time": 1.5}')
    assert remarks(TaskModel.load(spec, tmp_path))[-1] == (
        f"{call.replace('8)', '8, max_time=None)')}; generate() alone goes by max_time=1.5 and writes others"
    )


def test_generation_follows_the_jobs_precision(loaded):
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        task = loaded(local={"precision": precision})
        seen = set()
        layer = task.model.get_submodule(task.plan.targets[0].name.removesuffix(".weight"))
        layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.add(output.dtype))
        generate(task, prompts_of(3, 6), 4)
        assert seen == {dtype}


# --- evaluation ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_federation_learns_to_answer(tiny_gpt2):
    sites = [Site(f"site-{i}", questions(40, i), questions(20, 50 + i)) for i in range(2)]
    records = simulate(language_model(), tiny_gpt2, sites).rounds
    first, last = ([m["exact_match"] for m in record.evaluation.values()] for record in (records[0], records[-1]))
    assert max(first) < 0.1
    assert min(last) > 0.9


@pytest.mark.slow
def test_exact_match_is_a_share_of_the_examples_whatever_the_batches(loaded):
    task = loaded()
    prompts = prompts_of(2, 3, 4, 6, 9)
    examples = [
        {"row": i, "prompt": p, "completion": by_hand(task, p, 8).upper() if i % 2 else "none of it"}
        for i, p in enumerate(prompts)
    ]
    for size in (1, 2, 64):
        spec = language_model(evaluation={"exact_match": "text", "max_new_tokens": 8, "batch_size": size})
        metrics = evaluate(task.under(spec), examples).metrics
        assert metrics["exact_match"] == 2 / 5
        off = evaluate(task.under(language_model(evaluation={"exact_match": None, "batch_size": size})), examples)
        assert off.metrics == {"loss": metrics["loss"], "accuracy": metrics["accuracy"]}
    fewer = language_model(evaluation={"exact_match": "text", "max_new_tokens": 8, "max_examples": 2})
    right = [example["row"] % 2 for example in evaluated(examples, fewer)]
    assert evaluate(task.under(fewer), examples).metrics["exact_match"] == sum(right) / 2


def test_evaluation_stops_between_batches_of_answers(loaded):
    answers = iter([True, False])
    spec = language_model(evaluation={"batch_size": 2, "exact_match": "text", "max_new_tokens": 8})
    with pytest.raises(TrainingStopped):
        evaluate(loaded().under(spec), questions(8, 0), lambda: next(answers))
    assert next(answers, None) is None


# --- refusals ------------------------------------------------------------------------------------------------


def by_number(**changes):
    return language_model(evaluation={"exact_match": "number", "max_new_tokens": 8, **changes})


@pytest.mark.parametrize("every", [0, 1])
def test_a_completion_without_a_number_is_refused_before_training(tiny_gpt2, every):
    good = {"row": 1, "prompt": "the rain", "completion": "#### 4"}
    bad = {"row": 7, "prompt": "the sun", "completion": "#### four"}
    trained = []

    def train(*arguments):
        trained.append(arguments)

    sites = [Site("a", [good], [good], train), Site("b", [good], [good, bad], train)]
    with pytest.raises(TaskError, match=r"row 7: the completion holds no number.*evaluation\.exact_match: text"):
        simulate(by_number(every=every), tiny_gpt2, sites)
    assert trained == []
    task = TaskModel.load(by_number(), tiny_gpt2)
    with pytest.raises(TaskError, match="row 7"):
        evaluate(task.under(by_number()), [good, bad])
    check_exact_match(task.under(by_number(max_examples=1)), [*[good] * 9, bad])  # which is not drawn
    check_exact_match(task.under(language_model()), [good, bad])
    check_exact_match(task.under(by_number(exact_match=None)), [good, bad])


def test_examples_of_another_task_are_refused_as_such(tiny_gpt2):
    task = TaskModel.load(by_number(), tiny_gpt2)
    with pytest.raises(TaskError, match="needs the columns prompt and completion"):
        evaluate(task.under(by_number()), [{"row": 1, "text": "rain", "text_pair": None, "label": 1}])


def test_a_model_with_fewer_positions_than_the_answer_is_refused(tiny_gpt2):
    spec = language_model(data={"max_length": 512}, evaluation={"exact_match": "text", "max_new_tokens": 32})
    task = TaskModel.load(spec, tiny_gpt2)
    words = r"evaluation\.max_new_tokens: 32 leaves no room for a prompt in the 32 tokens.*take at most 31"
    with pytest.raises(TaskError, match=words):
        check_exact_match(task.under(spec), questions(2, 0))
    with pytest.raises(TaskError, match=words):
        generate(task, ["rain"], 32)
    assert generate(task, ["rain"], 31) == [by_hand(task, "rain", 31)]
