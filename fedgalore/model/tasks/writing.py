"""Tasks whose models write texts: an example is a question and its answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.data.messages import Message
from fedgalore.model.inputs import Batch
from fedgalore.model.tasks.face import TokenTask
from fedgalore.model.texts import TextInputs

Question = str | list[Message]  # a prompt, or a conversation up to the answer


class WritingTask(TokenTask[TextInputs]):
    has_head = False
    generates = True
    is_encoder_decoder: ClassVar[bool] = False

    def question(self, example: Example) -> Question:
        return str(example["prompt"])

    def answer(self, example: Example) -> str:
        return str(example["completion"])

    @abstractmethod
    def generation_inputs(self, questions: Sequence[Question], inputs: TextInputs, room: int) -> Batch:
        """`input_ids` and `attention_mask` `(batch, length)`, int64, at which the model begins to write.

        Args:
            room: tokens that a question may have.

        Raises:
            TaskError: a question that the model cannot be asked.
        """

    @abstractmethod
    def written(self, generated: Tensor, batch: Batch) -> Tensor:
        """The part of what `generate` returned that the model wrote, `(batch, new tokens)`."""
