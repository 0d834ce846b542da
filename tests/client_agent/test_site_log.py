"""The site's log: it survives deaths, and tells of every line that was changed or is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml

from client_agent import __main__ as command
from client_agent import site_log
from client_agent.errors import WorkDirUnusable
from client_agent.site_log import DAY_S, SiteLog, read
from client_agent.task_log import TaskLog
from protos import federation_pb2 as pb

DOCUMENT = "ab"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A work folder with a log of six lines."""
    log = SiteLog(tmp_path)
    log.append("document", job="job-1", document_sha256=DOCUMENT, document='{"name": "\x1b[31m"}')
    for version in range(1, 6):
        log.append("sends", job="job-1", what="update", version=version, bytes=7, document_sha256=DOCUMENT)
    return tmp_path


def test_a_restart_goes_on_where_the_log_ended(written: Path) -> None:
    log = SiteLog(written)
    log.append("sends", job="job-2", what="update", version=1, bytes=7, document_sha256=DOCUMENT)
    found = read(written)
    assert (found.problems, [line["number"] for line in found.lines]) == ([], [*range(1, 8)])
    assert log.knows("job-1", "ab")
    assert not log.knows("job-1", "cd")
    assert not log.knows("job-2", "ab")
    assert "\x1b" not in (written / "site.log").read_text()


Change = Callable[[list[str]], list[str]]


def without(*numbers: int) -> Change:
    return lambda lines: [line for number, line in enumerate(lines, start=1) if number not in numbers]


def edited(number: int, old: str = '"bytes": 7', new: str = '"bytes": 1') -> Change:
    return lambda lines: [line.replace(old, new) if at == number else line for at, line in enumerate(lines, start=1)]


def rehashed(lines: list[str]) -> list[str]:
    """Line 3 changed by somebody who knows how it is hashed."""
    text = lines[2][65:].replace('"bytes": 7', '"bytes": 1')
    return [*lines[:2], f"{site_log._chained(lines[1][:64], text)} {text}", *lines[3:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited(3), r"line 3 does not have the hash"),
        (edited(6), r"line 6 does not have the hash"),
        (edited(1, "name", "mane"), r"line 1 does not have the hash"),
        (edited(2, "{", "["), r"line 2 is no line of this log"),
        (edited(2, '"number": 2', '"number": "2"'), r"line 2 is no line of this log"),
        (rehashed, r"line 4 does not have the hash of itself and the line before"),
        (without(1), r"line 1 calls itself 2: before it, 1 is missing"),
        (without(3, 4), r"line 3 calls itself 5: before it, 3 to 4 is missing"),
        (without(6), r"line 6 was the last, and the log ends with line 5"),
        (without(*range(1, 7)), r"line 6 was the last, and the log ends with line 0"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], r"line 4 does not have the hash"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], r"line 3 calls itself 4"),
    ],
)
def test_what_was_changed_is_told_by_line_and_nothing_is_added_to_it(written: Path, change: Change, words: str) -> None:
    path = written / "site.log"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    assert re.match(words, read(written).problems[0])
    with pytest.raises(WorkDirUnusable, match=f"site.log is not as the agent wrote it: {words}.*move it"):
        SiteLog(written)


def test_the_end_is_known_by_the_head(written: Path) -> None:
    head = written / "site.log.head"
    last = head.read_text()
    head.write_text(f"6 {'0' * 64}\n")
    assert "line 6 has another hash than site.log.head says" in read(written).problems[0]
    head.unlink()
    assert "site.log.head is missing" in read(written).problems[0]
    (written / "site.log").unlink()
    head.write_text(last)
    assert "line 6 was the last, and the log ends with line 0" in read(written).problems[0]


def test_a_death_in_the_middle_of_a_line_costs_that_line_alone(written: Path) -> None:
    path, head = written / "site.log", written / "site.log.head"
    before, whole = head.read_text(), path.stat().st_size
    SiteLog(written).append("ends", job="job-1")
    head.write_text(before)  # a death between the line and its head
    assert len(read(written).lines) == 7
    os.truncate(path, path.stat().st_size - 9)  # one in the middle of the line
    assert (read(written).problems, len(read(written).lines)) == ([], 6)
    SiteLog(written).append("ends", job="job-2")
    assert read(written).problems == []
    assert [line["job"] for line in read(written).lines if line["event"] == "ends"] == ["job-2"]
    assert path.stat().st_size > whole


def test_the_command_prints_every_line_and_says_what_is_wrong(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.logs, "configure", lambda *_, **__: None)  # it would hold for the tests that follow
    rows = {"train": "t.jsonl", "text": "x", "label": "y"}  # the data need not be there
    config = tmp_path / "agent.yaml"
    config.write_text(yaml.safe_dump({"name": "a", "work_dir": ".", "data": {"d": rows}}))
    SiteLog(written).append("refuses", job="job-2", reason="\x1b[31m no")

    def status() -> int:
        with pytest.raises(typer.Exit) as ended:
            command.agent(config, log=True)
        return ended.value.exit_code

    assert status() == 0
    told, wrong = capsys.readouterr()
    *lines, last = told.splitlines()
    assert re.fullmatch(
        r" +2  20\d\d-\d\d-\d\d [\d:]+Z  sends     job=job-1 what=update version=1 bytes=7 \S+", lines[1]
    )
    assert lines[6].endswith(r'refuses   job=job-2 reason="\u001b[31m no"')
    assert (last, wrong) == (f"7 lines; the hash of the last is {read(written).head}", "")
    path = written / "site.log"
    path.write_text(path.read_text().replace("job-2", "job-3"))
    assert status() == 1
    assert "site.log: line 7 does not have the hash" in capsys.readouterr().err


def test_a_line_that_the_disk_does_not_take_leaves_the_log_as_it_was(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, before = SiteLog(written), (written / "site.log").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            log.append("ends", job="job-1")
    assert (written / "site.log").read_bytes() == before
    log.append("ends", job="job-1")
    assert read(written).problems == []


def test_rounds_of_a_day_are_starts_that_losses_an_update_or_an_evaluation_left_for(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SiteLog(written)
    # of no other start
    for what, version in (("update", 5), ("evaluation", 4), ("progress", 4), ("evaluation", 0), ("failure", 7)):
        log.append("sends", job="job-1", document_sha256=DOCUMENT, what=what, version=version, bytes=7)
    assert log.rounds_of_a_day(("job-1", DOCUMENT, 5)) == 5
    assert log.rounds_of_a_day(("job-1", DOCUMENT, 4)) == 4
    log.append("sends", job="job-1", document_sha256=DOCUMENT, what="evaluation", version=5, bytes=7)  # of its end
    log.append(
        "sends", job="job-1", document_sha256="e" * 64, what="evaluation", version=4, bytes=7
    )  # another document
    assert log.rounds_of_a_day(("job-1", DOCUMENT, 4)) == 6
    log.append("sends", job="job-2", document_sha256=DOCUMENT, what="progress", version=0, bytes=0)  # given up
    assert log.rounds_of_a_day(("job-1", DOCUMENT, 4)) == 7
    later = site_log.time.time() + DAY_S + 1
    monkeypatch.setattr(site_log.time, "time", lambda: later)
    assert SiteLog(written).rounds_of_a_day(("job-1", DOCUMENT, 6)) == 0


@pytest.mark.parametrize(
    ("what", "version"), [("update", 4), ("evaluation", 3), ("check", 3), ("failure", 3), ("progress", 3)]
)
async def test_only_an_update_makes_another_version(tmp_path: Path, what: str, version: int) -> None:
    await TaskLog(SiteLog(tmp_path), pb.Task(job_id="job-1", model_version=3)).sends(what, 7)
    assert read(tmp_path).lines[-1]["version"] == version
