"""What strangers write, fit to be shown: on a terminal, in a table, a page or a line of a log."""

from __future__ import annotations

JOINERS = "\u200c\u200d"  # scripts and emoji need them, and they hide nothing


def plain(text: str) -> str:
    """The text on one line, whatever cannot be seen spelled out: controls, marks of direction, halves of a character.

    White space of any kind is a blank. What is printable stays as it is, so that nobody's language is harmed.
    """
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if letter.isprintable() or letter in JOINERS:
        return letter
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()
