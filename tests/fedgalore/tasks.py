"""One job of each task, with the model that it trains and examples that are easy to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedgalore.data.examples import Example
from tests.fedgalore.conftest import CLASSES, COLOURS, TAGS, questions, rated, sentences, several, squares, tagged

Make = Callable[[int, int, Path], list[Example]]  # how many, seed, a folder for files


@dataclass(frozen=True)
class Case:
    """`folder` names the fixture of the model; `learned` a metric, and what it exceeds at last (a loss: is below).

    `local`, `also`: of a job across processes, besides.
    """

    model: dict[str, Any]
    folder: str
    make: Make
    learned: tuple[str, float]
    local: dict[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()


def _of(make: Callable[[int, int], list[Example]]) -> Make:
    return lambda count, seed, _: make(count, seed)


def _two_numbers(count: int, seed: int) -> list[Example]:
    return [example | {"label": [example["label"], 1 - example["label"]]} for example in rated(count, seed)]


def _pictures(label: Callable[[str], Any]) -> Make:
    return lambda count, seed, folder: [
        example | {"label": label(example["label"])} for example in squares(folder, count, seed)
    ]


def _chats(count: int, seed: int) -> list[Example]:
    return [
        {"row": e["row"], "messages": [_says("user", e["prompt"]), _says("assistant", e["completion"])]}
        for e in questions(count, seed)
    ]


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


_IMAGES = {"task": "image-classification"}
CASES = {
    "one class of a text": Case({"num_labels": 3}, "tiny_bert", _of(sentences), ("accuracy", 0.9)),
    "classes of a text": Case(
        {"label_names": list(CLASSES), "problem": "multi_label"}, "tiny_bert", _of(several), ("accuracy", 0.5)
    ),
    "a number of a text": Case({"num_labels": 1}, "tiny_bert", _of(rated), ("loss", 0.02)),
    "numbers of a text": Case(
        {"num_labels": 2, "problem": "regression"}, "tiny_bert", _of(_two_numbers), ("loss", 0.02)
    ),
    "tags of words": Case(
        {"task": "token-classification", "label_names": list(TAGS)}, "tiny_bert", _of(tagged), ("accuracy", 0.85)
    ),
    "one class of an image": Case(
        _IMAGES | {"label_names": list(COLOURS)}, "tiny_vit", _pictures(str), ("accuracy", 0.9)
    ),
    "classes of an image": Case(
        _IMAGES | {"label_names": list(COLOURS), "problem": "multi_label"},
        "tiny_vit",
        _pictures(lambda colour: [] if colour == "green" else [colour]),
        ("accuracy", 0.9),
    ),
    "a number of an image": Case(
        _IMAGES | {"num_labels": 1}, "tiny_vit", _pictures(lambda colour: list(COLOURS).index(colour)), ("loss", 0.1)
    ),
    "answers of a decoder": Case(
        {"task": "causal-lm"},
        "tiny_gpt2",
        _of(questions),
        ("accuracy", 0.9),
        {"packing": True},
        ("embeddings", "norms", "output"),
    ),
    "answers in a conversation": Case({"task": "causal-lm"}, "tiny_chat", _of(_chats), ("accuracy", 0.9)),
    "answers of an encoder and decoder": Case({"task": "seq2seq-lm"}, "tiny_t5", _of(questions), ("accuracy", 0.9)),
}
