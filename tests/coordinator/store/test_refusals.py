"""What passes by itself is told apart from what does not, and callers hear to come again."""

from __future__ import annotations

import errno

import pytest

from coordinator.doors.grpc.guard import status_of
from coordinator.state.errors import BlobNotFound
from coordinator.store.blob_store import BlobsAway
from coordinator.store.refusals import noted, passes


def caused(error: Exception, cause: Exception | None = None, context: Exception | None = None) -> Exception:
    error.__cause__, error.__context__ = cause, context
    return error


AWAY = BlobsAway("s3://blobs: it does not answer")
FULL = OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize(
    ("error", "code", "event"),
    [
        (FULL, "storage_full", "disk_full"),
        (caused(ValueError("wrapped"), FULL), "storage_full", "disk_full"),
        (AWAY, "storage_away", "bucket_away"),
        (caused(ValueError("wrapped"), caused(OSError("again"), AWAY)), "storage_away", "bucket_away"),
    ],
)
def test_a_caller_is_asked_to_come_again(
    error: Exception, code: str, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert passes(error)
    refused = noted(error, again_in_s=5.0)
    assert refused is not None and refused.code == code
    assert event in capsys.readouterr().out
    assert status_of(error)[0].name == "UNAVAILABLE"


@pytest.mark.parametrize(
    "error",
    [OSError("of another kind"), ValueError("x"), caused(BlobNotFound("gone"), context=AWAY), FileNotFoundError("x")],
)
def test_other_errors_are_none_of_this(error: Exception) -> None:
    assert not passes(error)
    assert noted(error) is None
