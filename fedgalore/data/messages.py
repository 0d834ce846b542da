"""Conversations as their tables hold them: who says what, and what of it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedgalore.data.errors import shown
from fedgalore.data.values import is_readable

Message = dict[str, Any]  # `role` and `content`, texts; `weight: 0` where an answer is not learned

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
OTHER_NAMES = {  # of roles, in other formats
    "human": "user",
    "person": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
UNREAD = ("tool_calls", "function_call", "refusal", "audio", "reasoning_content", "reasoning", "thinking")
FORM = '{"role": "user", "content": "..."}'


class MessageError(ValueError):
    """What is no conversation that can be learned; the message says which part of it, and what to do."""


def messages_of(values: Sequence[Any]) -> list[Message]:
    """The messages of one row; what else a message has, such as a name or an id, is left out.

    Raises:
        MessageError: keys or roles of another format, or an answer that is empty or stands outside of `content`.
    """
    return [_message(number, value) for number, value in enumerate(values, start=1)]


def check_conversation(values: Any) -> None:
    """Looks at messages as `messages_of` does, and at whether there is something to learn.

    Raises:
        MessageError: as `messages_of`; the first message is an answer, or none is that is learned.
    """
    if not isinstance(values, list | tuple):
        raise MessageError(f"messages are {shown(values)}; write a list of {FORM}")
    messages = messages_of(values)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        said = ", ".join(dict.fromkeys(map(shown, roles))) or "none"
        raise MessageError(
            f"no message is the assistant's (the roles are {said}), so that there is nothing to learn; "
            "write the role 'assistant', or remove the row"
        )
    if roles[0] == "assistant":
        raise MessageError(
            "the first message is the assistant's, which answers nobody; let one of the user or the system come first"
        )
    if not any(map(is_learned, messages)):
        raise MessageError(
            "all messages of the assistant have the weight 0, so that there is nothing to learn; remove the row"
        )


def is_learned(message: Message) -> bool:
    """Whether it is an answer that the model learns to write."""
    return message["role"] == "assistant" and message.get("weight") != 0


def _message(number: int, value: Any) -> Message:
    if not isinstance(value, dict):
        raise MessageError(f"message {number} is {shown(value)}; write it as {FORM}")
    _refuse_unread(number, value)
    if not {"role", "content"} <= value.keys():
        keys = ", ".join(map(shown, value)) or "none"
        remedy = f"write it as {FORM}"
        if {"from", "value"} <= value.keys():
            remedy += "; that is role in place of from (user for human, assistant for gpt), and content for value"
        raise MessageError(f"message {number} has no role and content, but the keys {keys}; {remedy}")
    message = {"role": _role(number, value["role"]), "content": _content(number, value["content"])}
    if _weight(number, message["role"], value.get("weight")) == 0:
        return message | {"weight": 0}
    if message["role"] == "assistant" and not is_readable(message["content"]):
        raise MessageError(
            f"message {number} is an answer in which nothing can be read, and nothing to learn; fill it, give it "
            '"weight": 0, or remove the row'
        )
    return message


def _role(number: int, role: Any) -> str:
    if not isinstance(role, str):
        raise MessageError(f"message {number}: its role is {shown(role)}; write one of {', '.join(ROLES)}")
    plain = role.strip().casefold()
    meant = plain if plain in ROLES else OTHER_NAMES.get(plain)
    if not plain or (meant is not None and meant != role):
        raise MessageError(f"message {number} has the role {shown(role)}; write {meant or ' or '.join(ROLES)}")
    return role


def _refuse_unread(number: int, message: dict[str, Any]) -> None:
    for key in UNREAD:
        if message.get(key):
            raise MessageError(
                f"message {number} has {key}, which is not learned; write what it says into content in the model's "
                "own form, or remove the row"
            )


def _content(number: int, content: Any) -> str:
    if not isinstance(content, str):
        raise MessageError(f"message {number}: its content is {shown(content)}; write it as text")
    try:
        content.encode()
    except UnicodeEncodeError:  # JSON can spell half a character: "\ud83d"
        raise MessageError(
            f"message {number}: its content is broken Unicode (half a surrogate pair); correct it"
        ) from None
    return content


def _weight(number: int, role: str, weight: Any) -> float | None:
    """As OpenAI's format has it: 0 or 1, of the assistant's messages."""
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise MessageError(f"message {number}: its weight is {shown(weight)}; write 0 or 1, or leave it out")
    if weight and role != "assistant":
        raise MessageError(
            f"message {number} is of the {role} and has the weight 1, but only the assistant's messages are learned; "
            "leave the weight out"
        )
    return weight
