"""Generated blocks: only they change, and a page that does not fit them is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.blocks import BlockError, filled, keep, names

PAGE = "before\n<!-- generated: a -->\nold\n<!-- end: a -->\nbetween\n<!-- generated: b -->\n<!-- end: b -->\nafter\n"


def test_only_what_stands_between_the_markers_changes() -> None:
    page = filled(PAGE, {"a": "new\n", "b": "x\ny"})
    assert page == PAGE.replace("old", "new").replace("b -->\n<!-- end", "b -->\nx\ny\n<!-- end")
    assert filled(page, {"a": "new", "b": "x\ny"}) == page


def test_blocks_have_names_in_the_order_of_the_page() -> None:
    assert names(PAGE) == ["a", "b"]
    assert names("<!-- generated: a -->\n<!-- end: b -->\n") == []


def test_a_stale_page_is_reported_and_left_alone_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "PAGE.md"
    path.write_text(PAGE)
    blocks = {"a": "new", "b": "x"}
    assert keep(path, blocks, "make page", check=True) == 1
    assert path.read_text() == PAGE
    assert capsys.readouterr().err == "PAGE.md is stale; run `make page` and commit the page\n"
    assert keep(path, blocks, "make page", check=False) == 0
    assert keep(path, blocks, "make page", check=True) == 0


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"a": "", "b": "", "c": ""}, "PAGE.md has no place for block 'c'; write <!-- generated: c -->"),
        ({"a": ""}, "nothing fills block 'b' of PAGE.md; remove it"),
    ],
)
def test_a_page_has_exactly_the_blocks_that_are_generated(tmp_path: Path, blocks: dict[str, str], words: str) -> None:
    path = tmp_path / "PAGE.md"
    path.write_text(PAGE)
    with pytest.raises(BlockError, match=words):
        keep(path, blocks, "make page", check=False)
