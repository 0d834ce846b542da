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
from fedgalore.model.tokens import ModelInputs, TextReader, check_ids, longest, padding_of
from fedgalore.process.panics import Panicked, panics_as_errors
from fedgalore.spec.job import JobSpec


class TextInputs:
    """Texts by the model's tokenizer, cut to what the job asks for and the model takes."""

    def __init__(self, spec: JobSpec, tokenizer: Any, model: Any, ends: tuple[int, ...]) -> None:
        """`ends`: tokens that end what the model writes."""
        self.tokenizer = tokenizer
        self.max_length = longest(model, tokenizer, spec.data.max_length)
        self.ends = ends
        self._read = TextReader(tokenizer)
        self._taken = ModelInputs(model, tokenizer)
        self._padding = padding_of(model)

    @classmethod
    def load(cls, spec: JobSpec, folder: Path, model: Any, *, writes: bool) -> TextInputs:
        """Takes the tokenizer of a model's folder, and tells the model its padding and end tokens.

        Args:
            writes: the model writes texts, so they need an end token.

        Raises:
            TaskError: the folder has none, it lacks words or an end token, or it does not fit the model or the job.
        """
        try:
            with panics_as_errors():
                tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
        except (OSError, ValueError, KeyError, Panicked) as error:
            raise TaskError(
                f"model.source: the folder has no tokenizer that transformers loads ({error}); add its files"
            ) from error
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise TaskError("model.source: the folder's tokenizer knows no words; add the tokenizer's files to it")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None or (writes and tokenizer.eos_token_id is None):
            raise TaskError("model.source: the folder's tokenizer has no eos_token; add it to tokenizer_config.json")
        check_ids(model, tokenizer)
        return cls(spec, tokenizer, model, agree_on_tokens(model, tokenizer, writes=writes))

    def shortening(self, asked: int) -> str | None:
        """In words, that texts are shorter than the job's `data.max_length` asks for; None where they are not."""
        if self.max_length >= asked:
            return None
        return (
            f"texts are cut to {self.max_length} tokens, which is all that the model takes; data.max_length is {asked}"
        )

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as `from_pretrained` reads it."""
        # Several chat templates would go into a sub-folder, which a model's archive has none of.
        several = isinstance(self.tokenizer.chat_template, dict)
        self.tokenizer.init_kwargs.pop("local_files_only", None)
        if self.tokenizer.is_fast:  # or it would cut and fill up texts as the last batch here was
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(folder, save_jinja_files=not several)

    def tokens(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Batch:
        """Texts, or pairs of texts, with the model's special tokens: padded int64 tensors `(batch, length)`."""
        return self._taken(self._never_empty(dict(self._batch(texts, pairs))))

    def words(self, sentences: Sequence[Sequence[str]]) -> tuple[Batch, list[list[int | None]]]:
        """Texts whose words are known: their tokens as `tokens`, and the word that each token belongs to.

        Words are joined by spaces, so that tokens are those of running text. A blank belongs to the word behind it.
        Special tokens and padding belong to none.
        """
        sentences = [[self._read.plain(word) for word in words] for words in sentences]
        encoded = self._batch([" ".join(words) for words in sentences], return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping").tolist()
        places = [
            [
                of_character[start] if encoded.sequence_ids(number)[token] is not None and start < end else None
                for token, (start, end) in enumerate(offsets[number])
            ]
            for number, of_character in enumerate(map(_word_of_each_character, sentences))
        ]
        return self._taken(self._never_empty(dict(encoded))), places

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts that an encoder and decoder writes, each with its end token."""
        end = self.tokenizer.eos_token_id
        rows = self._read.targets(texts, truncation=True, max_length=self.max_length)["input_ids"]
        return [list(row) if end in row else [*row[: self.max_length - 1], end] for row in rows]

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """One text's tokens, however many; with the special tokens that the model begins or ends a text with."""
        return list(self._read([text], add_special_tokens=special)["input_ids"][0])

    def spells_special(self, text: str) -> bool:
        """Whether the tokenizer might read a special token in a text, if it were not asked to read it as text."""
        return self._read.spells_special(text)

    def padded(self, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Batch:
        """Rows of tokens and of their labels as tensors `(batch, length)`, int64, filled up on the right."""
        length = max(map(len, rows))
        padding = self.tokenizer.pad_token_id
        tokens = {
            "input_ids": torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
        }
        return self._taken(tokens) | {
            "labels": torch.tensor([[*row, *[IGNORED] * (length - len(row))] for row in labels])
        }

    def padded_left(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Rows of tokens `(batch, length)`, int64, that end in the same column, so that answers begin in the next."""
        gaps = [max(map(len, rows)) - len(row) for row in rows]
        padding = self.tokenizer.pad_token_id
        tokens = {
            "input_ids": torch.tensor([[*[padding] * gap, *row] for gap, row in zip(gaps, rows, strict=True)]),
            "attention_mask": torch.tensor([[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)]),
        }
        return self._taken(tokens)

    def _batch(self, texts: Sequence[str], pairs: Sequence[str] | None = None, **options: bool) -> Any:
        return self._read(
            texts,
            pairs,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
            **self._padding,
            **options,
        )

    def _never_empty(self, tokens: Batch) -> Batch:
        """Gives a text without tokens the padding token as its only one: a model has to look at something."""
        empty = tokens["attention_mask"].sum(1) == 0
        if not empty.any():
            return tokens
        if not tokens["input_ids"].size(1):
            tokens = {name: torch.zeros(len(empty), 1, dtype=torch.int64) for name in tokens}
            tokens["input_ids"][:] = self.tokenizer.pad_token_id
        tokens["attention_mask"][empty, 0 if self._padding["padding_side"] == "right" else -1] = 1
        return tokens


def _word_of_each_character(words: Sequence[str]) -> list[int]:
    """Of the words joined by spaces: which word a character is in; a space counts to the word behind it."""
    return [number for number, word in enumerate(words) for _ in range(len(word) + (number > 0))]
