"""Texts as tokens. All that the tokenizer of a model is asked for is asked here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would fight with torch's

import torch
import transformers

from fedgalore.model.configuration import agree_on_tokens
from fedgalore.model.inputs import IGNORED, Batch, TaskError
from fedgalore.spec.job import JobSpec


class TextInputs:
    """Texts by the model's tokenizer, cut to what the job asks for and the model takes."""

    def __init__(self, spec: JobSpec, tokenizer: Any, positions: int | None, ends: tuple[int, ...] = ()) -> None:
        """`positions`: tokens that the model takes at most; None: any number. `ends`: they end what it writes."""
        self.tokenizer = tokenizer
        self.ends = ends
        self.max_length = min(spec.data.max_length, tokenizer.model_max_length, positions or spec.data.max_length)

    @classmethod
    def load(cls, spec: JobSpec, folder: Path, model: Any, *, writes: bool) -> TextInputs:
        """Takes the tokenizer of a model's folder, and tells the model its padding and end tokens.

        Args:
            writes: the model writes texts, so they need an end token.

        Raises:
            TaskError: the folder has none, or it lacks words or an end token.
        """
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise TaskError(
                f"model.source: the folder has no tokenizer that transformers loads ({error}); add its files"
            ) from error
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise TaskError("model.source: the folder's tokenizer knows no words; add the tokenizer's files to it")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None or (writes and tokenizer.eos_token_id is None):
            raise TaskError("model.source: the folder's tokenizer has no eos_token; add it to tokenizer_config.json")
        ends = agree_on_tokens(model, tokenizer, writes=writes)
        return cls(spec, tokenizer, getattr(model.config, "max_position_embeddings", None), ends)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as `from_pretrained` reads it."""
        # Several chat templates would go into a sub-folder, which a model's archive has none of.
        several = isinstance(self.tokenizer.chat_template, dict)
        self.tokenizer.save_pretrained(folder, save_jinja_files=not several)

    def tokens(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Batch:
        """Texts, or pairs of texts, with the model's special tokens: padded int64 tensors `(batch, length)`."""
        encoded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )
        return dict(encoded)

    def words(self, sentences: Sequence[Sequence[str]]) -> tuple[Batch, list[list[int | None]]]:
        """Texts whose words are known: their tokens as `tokens`, and the word that each token belongs to.

        Words are joined by spaces, so that tokens are those of running text. A blank belongs to the word behind it.
        Special tokens and padding belong to none.
        """
        encoded = self.tokenizer(
            [" ".join(words) for words in sentences],
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = encoded.pop("offset_mapping").tolist()
        places = [
            [
                of_character[start] if encoded.sequence_ids(number)[token] is not None and start < end else None
                for token, (start, end) in enumerate(offsets[number])
            ]
            for number, of_character in enumerate(map(_word_of_each_character, sentences))
        ]
        return dict(encoded), places

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts that an encoder and decoder writes, each with its end token."""
        end = self.tokenizer.eos_token_id
        rows = self.tokenizer(text_target=list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        return [list(row) if end in row else [*row[: self.max_length - 1], end] for row in rows]

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """One text's tokens, however many; with the special tokens that the model begins or ends a text with."""
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def padded(self, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Batch:
        """Rows of tokens and of their labels as tensors `(batch, length)`, int64, filled up on the right."""
        length = max(map(len, rows))
        padding = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
            "labels": torch.tensor([[*row, *[IGNORED] * (length - len(row))] for row in labels]),
        }


def _word_of_each_character(words: Sequence[str]) -> list[int]:
    """Of the words joined by spaces: which word a character is in; a space counts to the word behind it."""
    return [number for number, word in enumerate(words) for _ in range(len(word) + (number > 0))]
