"""Rows of metrics, as notebooks have them."""

from __future__ import annotations

import sys

import pytest

from fedgalore.client.records import COLUMNS, Records

CELLS = ((2, 1, "<a>", "evaluation", "accuracy", 0.75), (1, 0, None, "evaluation", "accuracy", 0.5))
ROWS = Records.of(dict(zip(COLUMNS, row, strict=True)) for row in CELLS)


def test_rows_have_an_order_and_are_chosen_by_their_values() -> None:
    assert ROWS.where(client=None).column("value") == [0.5]
    assert ROWS.where(metric="accuracy").column("round") == [1, 2]
    assert ROWS.where(source="training", client="<a>") == []


def test_a_notebook_shows_a_table_and_no_markup_of_strangers() -> None:
    html = ROWS._repr_html_()
    assert html.count("<tr>") == 3 and "<td>&lt;a&gt;</td>" in html and "<td></td>" in html


def test_without_pandas_a_frame_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    with pytest.raises(ImportError, match="pip install pandas, or take the records as they are"):
        ROWS.frame()
