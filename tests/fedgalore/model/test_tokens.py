"""Users' texts as tokens: nothing in them is read as a special token, and none is longer than the model takes."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from fedgalore.model.exact_match import generate
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples
from fedgalore.model.tokens import TextReader, longest
from tests.fedgalore.conftest import classifier, configure, language_model, translator

BERT_LIKE = ("[CLS]", "[SEP]", "[PAD]", "[MASK]")
LLAMA_LIKE = ("<s>", "</s>", "<pad>", "<|im_end|>")
LETTERS = [chr(code) for code in range(33, 127)]


def word_level(special: tuple[str, ...], *, splits: bool = True) -> Any:
    """Words are letters, or whatever stands between blanks."""
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(["[UNK]", *special, *LETTERS]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated") if splits else pre_tokenizers.WhitespaceSplit()
    return core, vocabulary


def unigram(special: tuple[str, ...]) -> Any:
    """As T5's and XLM-R's: the special tokens are among the pieces."""
    pieces = [("<unk>", 0.0), *((token, 0.0) for token in special), ("▁", -3.0), *((c, -5.0) for c in LETTERS)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return core, {token: i for i, (token, _) in enumerate(pieces)}


def tokenizer_of(made: Any, special: tuple[str, ...], **options: Any) -> Any:
    core, vocabulary = made
    first, last = special[:2]
    core.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=next(iter(vocabulary)),
        bos_token=first,
        eos_token=last,
        pad_token=special[2],
        extra_special_tokens=[special[3]],
        **options,
    )


@pytest.mark.parametrize(
    ("made", "special"),
    [
        (word_level(BERT_LIKE), BERT_LIKE),
        (word_level(BERT_LIKE, splits=False), BERT_LIKE),
        (word_level(LLAMA_LIKE), LLAMA_LIKE),
        (unigram(LLAMA_LIKE), LLAMA_LIKE),
    ],
    ids=["letters", "between-blanks", "turns", "pieces"],
)
def test_what_a_text_spells_is_text_and_what_surrounds_it_is_special(made: Any, special: tuple[str, ...]) -> None:
    tokenizer = tokenizer_of(made, special)
    read = TextReader(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(special)
    for token in special:
        for text in (token, f"a {token} b", f"a{token}b {token}"):
            row = read([text])["input_ids"][0]
            assert (row[0], row[-1]) == (ids[0], ids[1])
            assert set(ids).isdisjoint(row[1:-1]), (text, row)
            assert set(ids).isdisjoint(read([text], add_special_tokens=False)["input_ids"][0])
    plain = ["a b", "", "the rest < of > [ the ] text"]
    assert read(plain)["input_ids"] == tokenizer(plain)["input_ids"]
    assert tokenizer(special[1])["input_ids"][1:-1] == [ids[1]]  # the template of a chat still can


def test_added_tokens_that_are_no_control_tokens_are_words(tiny_bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.add_tokens(["ribosome", AddedToken("<|tool|>", special=True)])
    read = TextReader(tokenizer)
    assert tokenizer.convert_tokens_to_ids("ribosome") in read(["rain ribosome"])["input_ids"][0]
    assert tokenizer.convert_tokens_to_ids("<|tool|>") not in read(["rain <|tool|>"])["input_ids"][0]


class Slow(transformers.PythonBackend):
    """A tokenizer without tokenizer.json: letters."""

    def __init__(self, **options: Any) -> None:
        self.known = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", *LETTERS])}
        super().__init__(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.known)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.known)

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.known.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.known)[index]

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        return [1, *first, *(second or []), 2]


def test_a_slow_tokenizer_reads_text_too() -> None:
    row = TextReader(Slow())(["a</s>"])["input_ids"][0]
    assert (row[0], row[-1]) == (1, 2)
    assert {1, 2, 3}.isdisjoint(row[1:-1])
    assert len(row) == 7


def test_batches_answers_and_generation_hold_no_special_token_of_a_user(tiny_gpt2: Path) -> None:
    task = TaskModel.load(language_model(), tiny_gpt2)
    example = {"row": 1, "prompt": "rain [SEP] sun", "completion": "food [SEP]"}
    batch = task.collate([example])
    assert (batch["input_ids"] == 3).sum() == 1  # the end of the answer
    seen: list[torch.Tensor] = []
    of_model = task.model.generate
    task.model.generate = lambda **inputs: seen.append(inputs["input_ids"]) or of_model(**inputs)
    generate(task, ["rain [SEP] sun"], 2)
    assert not (seen[0] == 3).any()


# --- how long a text may be ------------------------------------------------------------------------------------------


def roberta(folder: Path, tokenizer: Path, **changes: Any) -> Path:
    """33 positions, of which the first is that of padding."""
    of_bert = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.RobertaConfig(
        vocab_size=len(of_bert),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=33,
        pad_token_id=of_bert.pad_token_id,
        type_vocab_size=1,
    )
    torch.manual_seed(0)
    transformers.RobertaModel(config).save_pretrained(folder)
    of_bert.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_positions_of_padding_are_no_room(tiny_bert: Path, tmp_path: Path) -> None:
    task = TaskModel.load(classifier(data={"name": "d", "max_length": 128}), roberta(tmp_path, tiny_bert))
    assert task.inputs.max_length == 32
    batch = task.collate([{"row": 1, "text": "rain " * 100, "text_pair": None, "label": 0}])
    assert batch["input_ids"].shape == (1, 32)
    assert torch.isfinite(task.loss(batch)[0])


def test_a_second_text_has_no_type_where_the_model_knows_one_only(tiny_bert: Path, tmp_path: Path) -> None:
    task = TaskModel.load(classifier(), roberta(tmp_path, tiny_bert))
    batch = task.collate([{"row": 1, "text": "rain", "text_pair": "sun", "label": 0}])
    assert "token_type_ids" not in batch
    assert torch.isfinite(task.loss(batch)[0])


@pytest.mark.parametrize("said", [-1, 0, None])
def test_no_limit_is_no_limit(said: int | None, tiny_bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    assert tokenizer.model_max_length > 10**20
    config = SimpleNamespace(max_position_embeddings=said)
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(get_text_config=lambda: config)
    assert longest(model, tokenizer, 30) == 30


def test_a_length_without_room_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(TaskError, match=r"data\.max_length: 3 tokens leave no room .* take at least 4"):
        TaskModel.load(classifier(data={"name": "d", "max_length": 3}), tiny_bert)


def test_a_token_without_a_row_of_embeddings_is_refused(bert_copy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_copy)
    tokenizer.add_tokens(["ribosome"])
    tokenizer.save_pretrained(bert_copy)
    with pytest.raises(TaskError, match=r"up to 25 \('ribosome'\), but the model has embeddings for 0 to 24; .*resize"):
        TaskModel.load(classifier(), bert_copy)


def test_an_empty_text_has_a_token(tiny_gpt2: Path) -> None:
    task = TaskModel.load(classifier(), tiny_gpt2)
    examples = [{"row": row, "text": text, "text_pair": None, "label": 0} for row, text in enumerate(("", "rain sun"))]
    for chosen in (examples[:1], examples):
        batch = task.collate(chosen)
        assert batch["attention_mask"].sum(1).min() == 1
        assert torch.isfinite(task.loss(batch)[0])


def test_an_empty_prompt_and_answer_can_be_learned(tiny_gpt2: Path) -> None:
    task = TaskModel.load(language_model(), tiny_gpt2)
    loss, count, _ = task.loss(task.collate([{"row": 1, "prompt": "", "completion": ""}]))
    assert count == 1  # the end token
    assert torch.isfinite(loss)


def test_the_last_batch_leaves_no_trace_in_the_saved_tokenizer(tiny_bert: Path, tmp_path: Path) -> None:
    task = TaskModel.load(classifier(), tiny_bert)
    task.collate([{"row": 1, "text": "rain", "text_pair": None, "label": 0}])
    task.save(tmp_path)
    for name in ("tokenizer.json",):
        assert json.loads((tmp_path / name).read_text())["truncation"] is None
        assert (tmp_path / name).read_bytes() == (tiny_bert / name).read_bytes()
    assert "local_files_only" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_what_a_model_does_not_take_is_left_out(tiny_bert: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    config = transformers.FNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, intermediate_size=16, max_position_embeddings=32
    )
    torch.manual_seed(0)
    transformers.FNetModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    configure(tmp_path, pad_token_id=0)
    task = TaskModel.load(classifier(), tmp_path)
    batch = task.collate([{"row": 1, "text": "rain", "text_pair": None, "label": 0}])
    assert set(batch) == {"input_ids", "token_type_ids", "labels"}  # FNet mixes all tokens: it has no mask
    assert torch.isfinite(task.loss(batch)[0])


def test_texts_that_are_cut_are_told_in_words(tiny_bert: Path) -> None:
    inputs = TaskModel.load(classifier(data={"name": "d", "max_length": 100}), tiny_bert).inputs
    assert inputs.shortening(100) == (
        "texts are cut to 32 tokens, which is all that the model takes; data.max_length is 100"
    )
    assert inputs.shortening(32) is None


def test_words_that_spell_special_tokens_keep_their_tags(tiny_bert: Path) -> None:
    spec = classifier(model={"source": "m", "task": "token-classification", "num_labels": 3})
    task = TaskModel.load(spec, tiny_bert)
    batch = task.collate([{"row": 1, "tokens": ["rain", "[SEP]", "[PAD]", "sun"], "tags": [1, 2, 0, 1]}])
    assert batch["labels"][batch["labels"] >= 0].tolist() == [1, 2, 0, 1]
    assert (batch["input_ids"] == 3).sum() == 1  # the tokenizer's own
    assert not (batch["input_ids"] == 0).any()


@pytest.mark.parametrize("task", ["sequence-classification", "seq2seq-lm"])
def test_an_end_token_in_a_text_of_bart_ends_nothing(task: str, tmp_path: Path) -> None:
    """BART finds the end of a text by its end token, and refuses a batch in which texts have several."""
    tokenizer = tokenizer_of(unigram(LLAMA_LIKE), LLAMA_LIKE)
    shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "max_position_embeddings": 32}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    transformers.BartForConditionalGeneration(
        transformers.BartConfig(vocab_size=len(tokenizer), **ids, **shape)
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    labels = None if task == "seq2seq-lm" else 2
    model = TaskModel.load(classifier(model={"source": "m", "task": task, "num_labels": labels}), tmp_path)
    texts = ["a b", "a </s> b", "</s></s>"]
    batch = model.collate(
        [{"row": 1, "text": text, "text_pair": None, "label": 0, "prompt": text, "completion": text} for text in texts]
    )
    assert (batch["input_ids"] == 2).sum(1).tolist() == [1, 1, 1]
    if task == "seq2seq-lm":
        assert (batch["labels"] == 2).sum(1).tolist() == [1, 1, 1]
    assert torch.isfinite(model.loss(batch)[0])


# --- what is beside a text in its batch, and what is nothing ----------------------------------------------------------


def llama(folder: Path, tokenizer: Path) -> Path:
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    config = transformers.LlamaConfig(
        vocab_size=25, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def xlnet(folder: Path, tokenizer: Path) -> Path:
    """Its last column stands for a text."""
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    transformers.XLNetModel(
        transformers.XLNetConfig(vocab_size=25, d_model=16, n_layer=2, n_head=2, d_inner=16)
    ).save_pretrained(folder)
    return folder


MADE = {"llama": llama, "xlnet": xlnet}
TAGGED = {"source": "m", "task": "token-classification", "num_labels": 3}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [(kind, spec) for kind in ("tiny_bert", "tiny_gpt2", "llama", "xlnet") for spec in ("class", "tags")]
    + [("tiny_gpt2", "answer"), ("llama", "answer"), ("tiny_t5", "translation")],
)
def test_what_a_model_says_of_a_row_hangs_on_no_other_row(
    kind: str, spec: str, tiny_gpt2: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = MADE[kind](tmp_path, tiny_gpt2) if kind in MADE else request.getfixturevalue(kind)
    specs = {"class": classifier, "tags": partial(classifier, model=TAGGED), "answer": language_model}
    task = TaskModel.load(specs.get(spec, translator)(method={"kind": "fedavg"}), folder)
    task.model.eval()
    task.inputs.tokenizer.padding_side = "left"  # as the files of many decoders say
    texts = ("rain", "the song", "sun wind snow the a some more")
    rows = [
        {"row": row, "text": text, "text_pair": None, "label": row, "prompt": text, "completion": "music " * row}
        | {"tokens": text.split(), "tags": [row] * len(text.split())}
        for row, text in enumerate(texts)
    ]
    with torch.no_grad():
        together, count, _ = task.loss(task.collate(rows))
        alone = [task.loss(task.collate([row])) for row in rows]
    assert count == sum(one for _, one, _ in alone)
    torch.testing.assert_close(together, sum(loss * one for loss, one, _ in alone) / count)
    if task.task.generates:
        assert generate(task, texts, 4) == [generate(task, [text], 4)[0] for text in texts]


@pytest.mark.parametrize("words", [["", ""], ["\u200b"], [" ", "\ufe0f", "\ufffd"]])
def test_words_without_a_token_are_refused_by_row_before_any_model(words: list[str], tiny_bert: Path) -> None:
    spec = classifier(model=TAGGED)
    with pytest.raises(TaskError, match="row 7: nothing can be read in its words; fill or remove the row"):
        check_examples([{"row": 7, "tokens": words, "tags": [0] * len(words)}], spec)
    task = TaskModel.load(spec, tiny_bert)
    task.inputs.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    words, tags = [*words, "👩\u200d🚀", "rain"], [0] * len(words) + [1, 2]
    labels = task.collate([{"row": 7, "tokens": words, "tags": tags}])["labels"]
    assert labels[labels >= 0].tolist() == [1, 2]


def test_a_row_of_which_nothing_counts_is_refused_whatever_is_beside_it(tiny_bert: Path) -> None:
    """Some tokenizers drop what others read."""
    task = TaskModel.load(classifier(model=TAGGED), tiny_bert)
    task.inputs.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    rows = [{"row": row, "tokens": [word], "tags": [0]} for row, word in enumerate(("rain", "\u200b"))]
    for chosen in (rows, rows[1:]):
        with pytest.raises(TaskError, match="row 1: nothing of it counts: .* has no tokens, or none within"):
            task.collate(chosen)
