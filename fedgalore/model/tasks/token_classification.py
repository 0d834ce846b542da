"""Classes of words, such as parts of names: named entity recognition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.data.labels import classes_of
from fedgalore.data.values import is_readable
from fedgalore.model.inputs import IGNORED, Batch, TaskError
from fedgalore.model.tasks.face import TokenTask
from fedgalore.model.tasks.problems import inverse_frequencies
from fedgalore.model.texts import TextInputs
from fedgalore.spec.job import JobSpec


class TokenClassification(TokenTask[TextInputs]):
    """The first token of a word has the word's tag; the loss leaves its others out."""

    auto_model = transformers.AutoModelForTokenClassification
    columns = (("tokens", "tags"),)

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        self.classes = classes_of(spec)

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        inputs = TextInputs.load(self.spec, folder, model, writes=False)
        if not inputs.tokenizer.is_fast:
            raise TaskError(
                f"model.source: {type(inputs.tokenizer).__name__} cannot tell which word a token belongs to; "
                "take a model whose folder has a tokenizer.json"
            )
        return inputs

    def check_example(self, example: Example) -> None:
        self._tags(example)
        if not any(map(is_readable, example["tokens"])):
            raise TaskError(f"row {example.get('row', '?')}: nothing can be read in its words; fill or remove the row")

    def labelled(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Tokens and `labels` `(batch, length)`, int64; a word that is cut off, or has no tokens, has no label."""
        batch, places = inputs.words([example["tokens"] for example in examples])
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, (example, words) in enumerate(zip(examples, places, strict=True)):
            tags, seen = self._tags(example), set()
            for token, word in enumerate(words):
                if word is not None and word not in seen:
                    seen.add(word)
                    labels[row, token] = tags[word]
        return batch | {"labels": labels}

    def balanced(self, examples: Sequence[Example]) -> Tensor:
        tags = [tag for example in examples for tag in self._tags(example)]
        return inverse_frequencies(torch.tensor(tags), self.spec.model.labels)

    def _tags(self, example: Example) -> list[int]:
        row, tokens, tags = example.get("row", "?"), example["tokens"], example["tags"]
        if len(tokens) != len(tags):
            raise TaskError(f"row {row}: {len(tokens)} tokens have {len(tags)} tags; give each token one tag")
        given = example.get("tag_names", ())
        return [self.classes.index(tag, row, "tag", given) for tag in tags]
