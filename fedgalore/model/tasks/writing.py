"""Tasks whose models write texts: an example is a question and its answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.data.messages import Message
from fedgalore.data.values import is_readable
from fedgalore.model.inputs import Batch, TaskError
from fedgalore.model.tasks.face import TokenTask
from fedgalore.model.texts import TextInputs

Question = str | list[Message]  # a prompt, or a conversation up to the answer


def values_of(example: Example) -> dict[str, str]:
    """What a template may name of an example: its columns for templates, and prompt and completion."""
    own = {name: example[name] for name in ("prompt", "completion") if name in example}
    return own | example.get("columns", {})


class WritingTask(TokenTask[TextInputs]):
    has_head = False
    generates = True
    is_encoder_decoder: ClassVar[bool] = False

    def has_columns(self, example: Example) -> bool:
        template = self.spec.data.template
        return super().has_columns(example) if template is None else values_of(example).keys() >= set(template.columns)

    def lacking(self, example: Example) -> str:
        template, there = self.spec.data.template, values_of(example)
        if template is None:
            more = f", or post a job with data.template, which may name {', '.join(there)}" if there else ""
            return super().lacking(example) + more
        missing = next(name for name in template.columns if name not in there)
        return (
            f"data.template: it names the column {missing}, but this data set's columns for templates are "
            f"{', '.join(there) or 'none'}; add {missing} to columns in the config, or name another one in the template"
        )

    def check_example(self, example: Example) -> None:
        """Raises:
        TaskError: nothing can be read in what the template makes of the example.
        """
        template = self.spec.data.template
        if template is None:
            return
        made = self.made(example)
        for part in ("prompt", "completion") if template.prompt else ("completion",):
            if not is_readable(made[part]):
                raise TaskError(
                    f"row {example.get('row', '?')}: data.template makes a {part} of it in which nothing can be read; "
                    "fill the row, or remove it"
                )

    def made(self, example: Example) -> Example:
        """The example, or what the job's template makes of it."""
        template = self.spec.data.template
        return example if template is None else {"row": example.get("row", "?"), **template.of(values_of(example))}

    def collate(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        return super().collate([self.made(example) for example in examples], inputs)

    def question(self, example: Example) -> Question:
        """What the model is asked."""
        return self.question_of(self.made(example))

    def answer(self, example: Example) -> str:
        """What it is to answer."""
        return self.answer_of(self.made(example))

    def question_of(self, made: Example) -> Question:
        return str(made["prompt"])

    def answer_of(self, made: Example) -> str:
        return str(made["completion"])

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
