"""A work folder whose disk takes nothing more."""

from __future__ import annotations

import errno
from itertools import islice
from pathlib import Path

import pytest

from client_agent import room
from client_agent.errors import CannotTrain, NoRoom, WorkDirUnusable
from client_agent.room import check_room, room_in, wait_for_room, waits


def test_waits_grow_and_come_to_no_more_than_the_limit() -> None:
    assert list(waits(60)) == [1, 2, 4, 8, 16]
    assert list(waits(13.3)) == [1, 2, 4]
    assert list(waits(0)) == []
    assert list(islice(waits(1e9), 3)) == [1, 2, 4]


def test_what_is_missing_is_said_before_anything_is_written(tmp_path: Path) -> None:
    check_room(tmp_path, 1, "a byte")
    with pytest.raises(NoRoom) as caught:
        check_room(tmp_path, 25 * 10**11, "the update of round 3")
    assert "work_dir: its disk has " in str(caught.value)
    assert "the update of round 3 needs 2.5 TB; make room there" in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_each_way_in_which_a_disk_takes_nothing_names_the_folder(tmp_path: Path, number: int) -> None:
    def as_cause() -> None:
        try:
            raise OSError(number, "no")
        except OSError as error:
            raise CannotTrain("cannot write") from error

    def of_safetensors() -> None:
        raise RuntimeError(f"SafetensorError: I/O error: no (os error {number})")

    def itself() -> None:
        raise OSError(number, "no")

    for failing in (as_cause, of_safetensors, itself):
        with (
            pytest.raises(NoRoom, match="work_dir: its disk takes no more files .* free.; make room"),
            room_in(tmp_path),
        ):
            failing()
    with pytest.raises(PermissionError), room_in(tmp_path):
        raise PermissionError(errno.EACCES, "not yours")


def test_a_start_waits_for_room_and_then_ends_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FIRST_WAIT_S", 0.01)
    tries = []

    def third_time() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "full")

    wait_for_room(tmp_path, third_time)
    assert len(tries) == 3
    monkeypatch.setattr(room, "PATIENCE_S", 0.02)

    def never() -> None:
        raise OSError(errno.EROFS, "read-only")

    with pytest.raises(WorkDirUnusable, match=f"work_dir: its disk takes no more files .*{tmp_path}"):
        wait_for_room(tmp_path, never)
