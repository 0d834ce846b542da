"""Answers to prompts or in conversations, written by a decoder: question and answer are one text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.chat import ChatError, asked, conversation
from fedgalore.model.inputs import IGNORED, Batch, TaskError
from fedgalore.model.tasks.writing import Question, WritingTask
from fedgalore.model.texts import TextInputs


class CausalLM(WritingTask):
    """The completion and the end token count in the loss; in a conversation the assistant's turns."""

    auto_model = transformers.AutoModelForCausalLM
    columns = (("prompt", "completion"), ("messages",))

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        return TextInputs.load(self.spec, folder, model, writes=True)

    def check_example(self, example: Example) -> None:
        if "messages" in example:
            _check_messages(example["messages"], example.get("row", "?"))

    def question(self, example: Example) -> Question:
        if "messages" in example:
            return list(example["messages"][: _last_answer(example["messages"])])
        return super().question(example)

    def answer(self, example: Example) -> str:
        if "messages" in example:
            return str(example["messages"][_last_answer(example["messages"])]["content"])
        return super().answer(example)

    def collate(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
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


def _last_answer(messages: Sequence[dict[str, str]]) -> int:
    return max(number for number, message in enumerate(messages) if message["role"] == "assistant")


def _check_messages(messages: Any, row: int | str) -> None:
    good = isinstance(messages, list) and all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    )
    if not good:
        raise TaskError(
            f"row {row}: messages are no list of mappings with a role and a content, both texts; correct it"
        )
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise TaskError(f"row {row}: no message is the assistant's, so that there is nothing to learn; remove the row")
    if roles[0] == "assistant":
        raise TaskError(
            f"row {row}: the first message is the assistant's, which answers nobody; "
            "let a message of the user or the system come first"
        )
