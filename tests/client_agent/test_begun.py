"""Deaths at a task, counted by a note that outlives the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_agent.begun import Begun


def test_deaths_at_one_task_are_counted_until_it_ends(tmp_path: Path) -> None:
    note = tmp_path / "begun.json"
    assert [Begun(note).begin("job 1") for _ in range(3)] == [0, 1, 2]
    assert Begun(note).begin("job 2") == 0  # another task, or another round of the job
    Begun(note).end()
    assert [Begun(note).begin("job 2") for _ in range(2)] == [0, 1]
    Begun(note).end()
    Begun(note).end()
    assert not note.exists()


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"task": "job 1"}', '{"task": "job 1", "times": null}'])
def test_a_note_that_cannot_be_read_or_written_counts_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "begun.json").write_text(content)
    assert Begun(tmp_path / "begun.json").begin("job 1") == 0
    assert Begun(tmp_path / "nowhere" / "begun.json").begin("job 1") == 0
