"""Answers to prompts or in conversations, written by a decoder: question and answer are one text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.data.messages import Message, MessageError, check_conversation, is_learned
from fedgalore.model.chat import ChatError, asked, conversation
from fedgalore.model.inputs import IGNORED, Batch, TaskError
from fedgalore.model.packing import packed
from fedgalore.model.tasks.writing import Question, WritingTask
from fedgalore.model.texts import TextInputs


class CausalLM(WritingTask):
    """The completion and the end token count in the loss; in a conversation the answers that are learned."""

    auto_model = transformers.AutoModelForCausalLM
    columns = (("prompt", "completion"), ("messages",))
    predicted_from = 1  # nothing comes before the first token

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        return TextInputs.load(self.spec, folder, model, writes=True)

    def check_example(self, example: Example) -> None:
        super().check_example(example)
        if "messages" in self.made(example):
            try:
                check_conversation(example["messages"])
            except MessageError as error:
                raise TaskError(f"row {example.get('row', '?')}: {error}") from error

    def question_of(self, made: Example) -> Question:
        if "messages" in made:
            return list(made["messages"][: _last_answer(made["messages"])])
        return super().question_of(made)

    def answer_of(self, made: Example) -> str:
        if "messages" in made:
            return str(made["messages"][_last_answer(made["messages"])]["content"])
        return super().answer_of(made)

    def labelled(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Tokens and `labels` `(batch, length)`, int64. Of what is too long, the beginning is lost."""
        pairs = [
            self._conversation(example, inputs) if "messages" in example else _answered(example, inputs)
            for example in examples
        ]
        return inputs.padded([row for row, _ in pairs], [labels for _, labels in pairs])

    def _conversation(self, example: Example, inputs: TextInputs) -> tuple[list[int], list[int]]:
        messages = example["messages"]
        try:
            # what comes after the last answer counts for nothing
            row, counts = conversation(inputs, messages[: _last_answer(messages) + 1])
        except ChatError as error:
            raise TaskError(f"row {example.get('row', '?')}: {error}") from error
        labels = [token if counted else IGNORED for token, counted in zip(row, counts, strict=True)]
        return row[-inputs.max_length :], labels[-inputs.max_length :]

    def training_batch(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Where the job packs examples, several of them share a row."""
        batch = self.collate(examples, inputs)
        return packed(batch, inputs.max_length) if self.spec.local.packing else batch

    def options(self, batch: Batch) -> dict[str, bool]:
        """With a cache, transformers would take the examples of a row for one text."""
        return {"use_cache": False} if "position_ids" in batch else {}

    def aligned(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """A token is predicted from those before it."""
        return outputs.logits[:, :-1], batch["labels"][:, 1:]

    def generation_inputs(self, questions: Sequence[Question], inputs: TextInputs, room: int) -> Batch:
        """A question without room loses its beginning, as in training."""
        end = inputs.tokenizer.eos_token_id
        return inputs.padded_left([(self._asked(question, inputs) or [end])[-room:] for question in questions])

    def written(self, generated: Tensor, batch: Batch) -> Tensor:
        return generated[:, batch["input_ids"].shape[1] :]

    def _asked(self, question: Question, inputs: TextInputs) -> list[int]:
        if isinstance(question, str):
            return inputs.ids(question)
        try:
            return asked(inputs, question)
        except ChatError as error:
            raise TaskError(f"messages: {error}") from error


def _answered(example: Example, inputs: TextInputs) -> tuple[list[int], list[int]]:
    limit = inputs.max_length
    answer = [*inputs.ids(example["completion"], special=False), inputs.tokenizer.eos_token_id][:limit]
    prompt = inputs.ids(example["prompt"]) or [inputs.tokenizer.eos_token_id]
    prompt = prompt[max(0, len(prompt) + len(answer) - limit) :]  # its end is nearest to the answer
    return prompt + answer, [IGNORED] * len(prompt) + answer


def _last_answer(messages: Sequence[Message]) -> int:
    return max(number for number, message in enumerate(messages) if is_learned(message))
