"""Survivors of a mutation run: read from mutmut's words, compared with what may live."""

from __future__ import annotations

from pathlib import Path

from tools.mutation import Change, accepted, change_of, left_over, statuses

SHOWN = """# coordinator.state.round.x_advance__mutmut_6: survived
--- coordinator/state/round.py
+++ coordinator/state/round.py
@@ -10,7 +10,7 @@
     size = len(round.participants)
-    return size if overdue else 0
+    return size if not overdue else 0
     # the end
"""


def change(before: str, after: str) -> Change:
    return Change("a.py", (f"- {before}", f"+ {after}"))


def test_results_name_each_mutant_with_its_status() -> None:
    text = "    a.x_f__mutmut_1: survived\n    a.xǁCǁf__mutmut_2: no tests\n    a.x_g__mutmut_3: not checked\n"
    assert statuses(text) == {
        "a.x_f__mutmut_1": "survived",
        "a.xǁCǁf__mutmut_2": "no tests",
        "a.x_g__mutmut_3": "not checked",
    }
    assert statuses("") == {}


def test_a_change_is_its_file_and_its_lines() -> None:
    lines = ("- return size if overdue else 0", "+ return size if not overdue else 0")
    assert change_of(SHOWN) == Change("coordinator/state/round.py", lines)


def test_the_words_of_a_sentence_may_change_and_nothing_else() -> None:
    assert change('f("no work yet")', 'f("XXno work yetXX")').is_wording
    assert change('f(a, "no work yet")', 'f(a, "NO WORK YET")').is_wording
    assert not change('f(a, "no work yet")', 'f(None, "no work yet")').is_wording
    assert not change('f("no work yet")', "f(None)").is_wording
    assert not change('row["reason"]', 'row["REASON"]').is_wording  # a key, not a sentence


def test_what_is_accepted_is_not_left_over() -> None:
    first, second, words = change("a", "b"), change("a", "c"), change('"of a"', '"OF A"')
    assert left_over([first, second, words], [first]) == [second]


def test_what_is_printed_can_be_accepted(tmp_path: Path, monkeypatch) -> None:
    survivor = change_of(SHOWN)
    path = tmp_path / "accepted.toml"
    monkeypatch.setattr("tools.mutation.ACCEPTED", path)
    path.write_text(survivor.as_toml().replace('reason = ""', 'reason = "equal"'))
    assert accepted() == {survivor: "equal"}


def test_each_accepted_change_has_a_reason() -> None:
    assert all(reason.endswith(".") for reason in accepted().values())
