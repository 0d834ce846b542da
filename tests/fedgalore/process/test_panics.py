"""What a library written in Rust does when it breaks down."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fedgalore.process.panics import Panicked, panics_as_errors


def test_a_panic_becomes_an_error_and_nothing_else_changes(capfd: pytest.CaptureFixture[str]) -> None:
    document = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    document["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 3}
    broken = Tokenizer.from_str(json.dumps(document))
    broken.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(BaseException, match="stride") as caught:
        broken.encode("a a a a")
    assert not isinstance(caught.value, Exception), "the library's own panics pass every handler"
    with pytest.raises(Panicked, match=r"^a library broke down: .*stride"), panics_as_errors():
        broken.encode("a a a a")
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), panics_as_errors():
            raise error
    assert "panicked" in capfd.readouterr().err
