"""Panics of libraries that are written in Rust: raised past every `except Exception`, they would end a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Panicked(RuntimeError):
    """A library's own code broke down; the message is its own."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Around calls of such a library, or on a function that makes some.

    Raises:
        Panicked: in place of a panic, which is no `Exception`.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of no module: each library has one of its own
            raise Panicked(f"a library broke down: {error}") from error
        raise
