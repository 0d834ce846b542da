"""The numbers of docs/SIZING.md are those that `fedgalore size` prints."""

from __future__ import annotations

import pytest

from tools import sizing_page


@pytest.mark.slow
def test_the_page_shows_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizing_page.main(["--check"]) == 0, capsys.readouterr().err
    example = sizing_page.PAGE.read_text().partition("<!-- generated: example -->")[2].partition("<!-- end")[0]
    assert max(map(len, example.splitlines())) <= 80
