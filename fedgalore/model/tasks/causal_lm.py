"""Answers to prompts, written by a decoder: prompt and completion are one text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.inputs import IGNORED, Batch
from fedgalore.model.tasks.face import Classifying
from fedgalore.model.texts import TextInputs


class CausalLM(Classifying[TextInputs]):
    auto_model = transformers.AutoModelForCausalLM
    columns = ("prompt", "completion")
    has_head = False
    generates = True

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        return TextInputs.load(self.spec, folder, model, writes=True)

    def collate(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Tokens and `labels` `(batch, length)`, int64; only the completion and the end token count in the loss."""
        rows, labels = [], []
        limit = inputs.max_length
        for example in examples:
            answer = inputs.ids(example["completion"], special=False)
            answer = [*answer, inputs.tokenizer.eos_token_id][:limit]
            prompt = inputs.ids(example["prompt"])
            prompt = prompt[max(0, len(prompt) + len(answer) - limit) :]  # its end is nearest to the answer
            rows.append(prompt + answer)
            labels.append([IGNORED] * len(prompt) + answer)
        return inputs.padded(rows, labels)

    def kept(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """A token is predicted from those before it."""
        keep = batch["labels"][:, 1:] != IGNORED
        return outputs.logits[:, :-1][keep], batch["labels"][:, 1:][keep]
