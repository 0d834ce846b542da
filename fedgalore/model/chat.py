"""Conversations as tokens, by the model's own chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from fedgalore.data.messages import Message, is_learned
from fedgalore.model.texts import TextInputs
from fedgalore.process.panics import panics_as_errors

NO_TEMPLATE = (
    "the model has no chat template, so that messages have no form; take a model whose folder has a "
    "chat_template.jinja, or give prompt and completion"
)
MARK = "\ue000{}\ue001"  # of characters that no alphabet has


class ChatError(ValueError):
    """A conversation that the model's chat template cannot write; the message says why and what to do."""


def has_template(inputs: object) -> bool:
    """Whether the model's tokenizer has a chat template, without which messages have no form."""
    return isinstance(inputs, TextInputs) and bool(inputs.tokenizer.chat_template)


def conversation(inputs: TextInputs, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """A conversation's tokens, and which of them are learned: the assistant's answers, each with the mark of its end.

    Raises:
        ChatError: the model has no chat template, or it refuses or rewrites these messages.
    """
    shown = _Shown.of(inputs, messages)
    whole = shown.rendered(len(messages))
    pieces, done = [], 0
    for number, message in enumerate(messages):
        if is_learned(message):
            before, until = shown.rendered(number), shown.rendered(number + 1)
            begin = _alike(shown.rendered(number, asks=True), until)
            if not (whole.startswith(until) and done <= len(before) <= begin):
                raise ChatError(
                    "the model's chat template writes a turn otherwise when others follow it; "
                    "give each answer in a row of its own, or give prompt and completion"
                )
            pieces += [(whole[done:begin], False), (whole[begin : len(until)], True)]
            done = len(until)
    rows = [(shown.ids(piece), counts) for piece, counts in pieces]
    return [token for row, _ in rows for token in row], [counts for row, counts in rows for _ in row]


def asked(inputs: TextInputs, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation that waits for the assistant's answer.

    Raises:
        ChatError: as `conversation`.
    """
    shown = _Shown.of(inputs, messages)
    return shown.ids(shown.rendered(len(messages), asks=True))


@dataclass(frozen=True)
class _Shown:
    """Messages as the template sees them, with marks in place of contents that spell a control token."""

    tokenizer: Any
    inputs: TextInputs
    messages: list[Message]
    hidden: Mapping[str, str]  # contents by their mark

    @classmethod
    def of(cls, inputs: TextInputs, messages: Sequence[Message]) -> _Shown:
        tokenizer = inputs.tokenizer
        if not has_template(inputs):
            raise ChatError(NO_TEMPLATE)
        shown, hidden = [], {}
        for number, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if inputs.spells_special(role):
                raise ChatError(f"the role {role!r} spells a control token of the model; give it another name")
            if inputs.spells_special(content) or MARK[0] in content:
                mark = MARK.format(number)
                hidden[mark] = content
                content = mark
            shown.append({"role": role, "content": content})
        return cls(tokenizer, inputs, shown, hidden)

    def rendered(self, count: int, *, asks: bool = False) -> str:
        """The first messages as the template writes them; `asks`: and then the assistant is to answer."""
        try:
            return str(
                self.tokenizer.apply_chat_template(self.messages[:count], tokenize=False, add_generation_prompt=asks)
            )
        except Exception as error:  # a template is a program
            raise ChatError(f"the model's chat template refuses these messages ({error}); correct them") from error

    @panics_as_errors()
    def ids(self, rendered: str) -> list[int]:
        """Tokens of what the template wrote: its control tokens are such, those that contents spell are not."""
        marks = f"({'|'.join(map(re.escape, self.hidden))})"
        return [
            token
            for part in (re.split(marks, rendered) if self.hidden else [rendered])
            for token in (
                self.inputs.ids(self.hidden[part], special=False)
                if part in self.hidden
                else self.tokenizer(part, add_special_tokens=False)["input_ids"]
            )
        ]


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
