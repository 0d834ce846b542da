"""Tiny seeded models with tokenizers of their own, saved as a user's would be, and text that is easy to learn."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fedgalore.data.examples import SplitFile, read_examples
from fedgalore.spec.job import JobSpec
from tests.builders import a_spec

CLASSES = ("weather", "music", "food")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
WORDS = {
    "weather": ["rain", "sun", "wind", "snow"],
    "music": ["song", "drum", "choir", "tune"],
    "food": ["bread", "soup", "rice", "plum"],
}
FILLERS = ["the", "a", "some", "more", "today", "please"]


@pytest.fixture(autouse=True, scope="session")
def _quiet_transformers() -> None:
    transformers.utils.logging.disable_progress_bar()


def sentences(count: int, seed: int, classes: tuple[str, ...] = CLASSES) -> list[dict[str, Any]]:
    """Examples whose class shows in four of six words; labels count along `CLASSES`."""
    chance = random.Random(seed)
    examples = []
    for row in range(1, count + 1):
        name = chance.choice(classes)
        words = chance.choices(WORDS[name], k=4) + chance.choices(FILLERS, k=2)
        chance.shuffle(words)
        examples.append({"row": row, "text": " ".join(words), "text_pair": None, "label": CLASSES.index(name)})
    return examples


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """The same as prompts, with the class's name as their completion."""
    return [{"row": e["row"], "prompt": e["text"], "completion": CLASSES[e["label"]]} for e in sentences(count, seed)]


def classifier(**sections: Any) -> JobSpec:
    return a_spec(**{"model": {"source": "m", "num_labels": 3}, "method": {"rank": 4}, **sections})


def language_model(**sections: Any) -> JobSpec:
    model = {"source": "m", "task": "causal-lm", "num_labels": None}
    return a_spec(**{"model": model, "method": {"rank": 4}, **sections})


def image_classifier(**sections: Any) -> JobSpec:
    model = {"source": "m", "task": "image-classification", "num_labels": None, "label_names": list(COLOURS)}
    return a_spec(**{"method": {"rank": 4}, **sections, "model": model | sections.get("model", {})})


TAGS = ("O", "B-FOOD", "I-FOOD")


def tagger(**sections: Any) -> JobSpec:
    model = {"source": "m", "task": "token-classification", "num_labels": None, "label_names": list(TAGS)}
    return a_spec(**{"model": model, "method": {"rank": 4}, **sections})


def translator(**sections: Any) -> JobSpec:
    model = {"source": "m", "task": "seq2seq-lm", "num_labels": None}
    return a_spec(**{"model": model, "method": {"rank": 4}, **sections})


def tagged(count: int, seed: int) -> list[dict[str, Any]]:
    """Words of which neighbouring kinds of food are one entity."""
    examples = []
    for example in sentences(count, seed):
        tokens, tags = example["text"].split(), []
        for word in tokens:
            inside = bool(tags) and tags[-1] != "O"
            tags.append("O" if word not in WORDS["food"] else "I-FOOD" if inside else "B-FOOD")
        examples.append({"row": example["row"], "tokens": tokens, "tags": tags})
    return examples


def several(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts with the names of all classes whose words are in them; some have none."""
    chance = random.Random(seed)
    examples = []
    for row in range(1, count + 1):
        label = [name for name in CLASSES if chance.random() < 0.4]
        words = chance.choices(FILLERS, k=2) + [word for name in label for word in chance.choices(WORDS[name], k=3)]
        chance.shuffle(words)
        examples.append({"row": row, "text": " ".join(words), "text_pair": None, "label": label})
    return examples


def rated(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts whose label is the share of their words that are about the weather."""
    examples = sentences(count, seed)
    for example in examples:
        words = example["text"].split()
        example["label"] = sum(word in WORDS["weather"] for word in words) / len(words)
    return examples


def configure(folder: Path, **changes: Any) -> None:
    """Overwrites keys of a model's configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _tokenizer(template: bool) -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *CLASSES, *FILLERS, *(word for group in WORDS.values() for word in group)]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} if template else {"eos_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if template else ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", model_input_names=inputs, **names
    )


def squares(folder: Path, count: int, seed: int, colours: tuple[str, ...] = tuple(COLOURS)) -> list[dict[str, Any]]:
    """Images of a square on noise in one sub-folder for each class, its colour; what `read_examples` reads of them."""
    chance = np.random.default_rng(seed)
    for name in colours:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        name = colours[chance.integers(len(colours))]
        pixels = chance.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        top, left = chance.integers(0, 8, 2)
        pixels[top : top + 12, left : left + 12] = COLOURS[name]
        Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return read_examples(SplitFile(folder))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder without head: hidden 32, 2 layers, square, tall and wide matrices."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = _tokenizer(template=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
            initializer_range=0.1,
        )
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bert_copy(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy to change or to break."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "bert"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 language model: its matrices are `Conv1D`, stored `(in, out)`; its tokenizer has no padding token."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = _tokenizer(template=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=3, eos_token_id=3
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_chat(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GPT-2 with words for roles and a chat template: `user : rain [SEP] assistant : weather [SEP]`."""
    folder = tmp_path_factory.mktemp("models") / "chat"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.add_tokens(["user", "assistant", ":"])
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }} : {{ message.content }} [SEP] {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5: its decoder begins with the padding token, and its positions are relative."""
    folder = tmp_path_factory.mktemp("models") / "t5"
    tokenizer = _tokenizer(template=False)
    tokenizer.pad_token = "[PAD]"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=3,
            decoder_start_token_id=0,
        )
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer without head, but with the pooler that a classifier leaves out: images of 16 x 16."""
    folder = tmp_path_factory.mktemp("models") / "vit"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=16,
            patch_size=8,
            initializer_range=0.1,
            hidden_dropout_prob=0.1,
        )
        transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dinov2 backbone for images of 16 x 16 whose processor cuts them to 24 x 24."""
    folder = tmp_path_factory.mktemp("models") / "dinov2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=16, patch_size=8
        )
        transformers.Dinov2Model(config).save_pretrained(folder)
    processor = transformers.BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_levit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeViT: linear layers and convolutions, each before a batch normalisation; images of 32 x 32."""
    folder = tmp_path_factory.mktemp("models") / "levit"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LevitConfig(
            image_size=32,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        )
        transformers.LevitModel(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
