"""What is seen of a text stays, and what is not seen is spelled out."""

from __future__ import annotations

import pytest

from fedgalore.process.plain import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zeile 7, „Größe“, 温度, حرارة, नमस्ते", "Zeile 7, „Größe“, 温度, حرارة, नमस्ते"),
        ("می\u200cخواهم 👩\u200d🔬", "می\u200cخواهم 👩\u200d🔬"),
        ("[/x] <b>&amp;</b> {0} %s", "[/x] <b>&amp;</b> {0} %s"),
        ("a\tb\r\nc\u2028d\xa0e", "a b  c d e"),
        ("\x1b]8;;http://x\x07\x1b[2J", r"\x1b]8;;http://x\x07\x1b[2J"),
        ("safe\u202egpj.exe\u2066", r"safe\u202egpj.exe\u2066"),
        ("\ud800 \x00 \x9b", r"\ud800 \x00 \x9b"),
    ],
)
def test_it_can_be_shown(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(shown) == shown
    shown.encode()
