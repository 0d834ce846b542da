"""Answers to prompts, written by an encoder and decoder: the encoder reads the prompt, the decoder writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.inputs import Batch, TaskError
from fedgalore.model.tasks.writing import Question, WritingTask
from fedgalore.model.texts import TextInputs


def first_token(model: Any) -> int | None:
    """What the decoder begins with: what training puts in front of a text, else what `generate` does."""
    sources = (model.config, model.generation_config, getattr(model.config, "decoder", None))
    for name in ("decoder_start_token_id", "bos_token_id"):
        for source in sources:
            if (token := getattr(source, name, None)) is not None:
                return int(token)
    return None


class Seq2SeqLM(WritingTask):
    auto_model = transformers.AutoModelForSeq2SeqLM
    columns = (("prompt", "completion"),)
    is_encoder_decoder = True

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        first = first_token(model)
        if first is None:
            raise TaskError(
                "model.source: the folder's config.json has no decoder_start_token_id, with which the decoder begins; "
                "add it"
            )
        for config in (model.config, model.generation_config):  # where training and `generate` look
            config.decoder_start_token_id = first
        return TextInputs.load(self.spec, folder, model, writes=True)

    def labelled(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Tokens of prompts, and `labels` `(batch, length of completions)`, int64."""
        prompts = inputs.tokens([example["prompt"] for example in examples])
        completions = inputs.targets([example["completion"] for example in examples])
        return prompts | {"labels": inputs.padded(completions, completions)["labels"]}

    def model_inputs(self, batch: Batch) -> Batch:
        """Everything: the model makes the decoder's inputs of the labels, each family in its own way."""
        return batch

    def generation_inputs(self, questions: Sequence[Question], inputs: TextInputs, room: int) -> Batch:
        """Prompts are cut as in training; what is written takes no room from them."""
        return inputs.tokens([str(question) for question in questions])

    def written(self, generated: Tensor, batch: Batch) -> Tensor:
        return generated[:, 1:]  # behind the token that the decoder starts with
