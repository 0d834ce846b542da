"""Deleting from a bucket while others put: buckets have no locks, so a sweep shows a mark, and who puts looks for it.

Who puts a blob that is there already renews the time of its last use, and then looks for the mark. Without a mark,
every sweep to come sees that time, because it shows its mark before it looks at times. With one, who puts waits for the
end of that sweep, and looks whether the blob is there. One sweep at a time has the mark. It deletes nothing after
`SWEEP_S`, so a mark that stands for `STALE_S` belongs to a process that died.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from coordinator.store.blob_store import GRACE_S
from coordinator.store.bucket import Bucket, ObjectMeta

SWEEP_S = 8.0
STALE_S = 25.0  # calls under way when a sweep's time is up have ended by then: `QUICK_S`
QUICK_S = 5.0  # patience of a sweep's calls
BLOBS = "sha256"  # folder of the bucket
_USED = "used"
_MARK = "sweeping"
_TOGETHER = 400  # blobs that are deleted by one call
_AGAIN_S = 0.1


class Turn(NamedTuple):
    """A sweep's right to delete. `now`: seconds since the epoch when it began, by the bucket's clock."""

    now: float
    until: float  # by this machine's monotonic clock

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until


class Sweeps:
    """The mark of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        """`bucket` is one of little patience."""
        self._bucket = bucket
        self._other = ("", 0.0)  # tag of another's mark, and since when we see it

    @contextmanager
    def turn(self) -> Iterator[Turn | None]:
        """The right to delete until the block ends; None where another has it.

        Raises:
            BlobsAway: the bucket does not answer.
        """
        until = time.monotonic() + SWEEP_S
        tag = self._bucket.put(_MARK, uuid.uuid4().hex.encode(), new=True)
        ours = self._bucket.head(_MARK)
        if tag is None or ours is None or ours.tag != tag:
            self._clear_if_stale(ours.tag if ours else "")
            yield None
            return
        try:
            yield Turn(ours.modified, until)
        finally:
            left = self._bucket.head(_MARK)
            if left is not None and left.tag == tag:
                self._bucket.delete([_MARK])

    def delete(self, bucket: Bucket, may_delete: Callable[[str, float], bool], ahead_s: float) -> int:
        """Deletes blobs, and marks of use of such that are gone. Returns the bytes freed; 0 where another sweeps.

        Args:
            bucket: one with the patience to list.
            may_delete: of a blob's hash, and the seconds since it was put, or put again.
            ahead_s: by how much the caller's time is ahead of the bucket's.

        Raises:
            BlobsAway: the bucket does not answer.
        """
        freed = 0
        with self.turn() as turn:
            if turn is None:
                return 0
            now = turn.now + ahead_s
            uses = {name_of(each): each for each in bucket.list(_USED)}
            doomed: list[tuple[ObjectMeta, ObjectMeta | None]] = []  # blobs, with their marks of use
            for each in bucket.list(BLOBS):
                use = uses.pop(name_of(each), None)
                if may_delete(name_of(each), now - max(each.modified, use.modified if use else each.modified)):
                    doomed.append((each, use))
            for start in range(0, len(doomed), _TOGETHER):
                some = doomed[start : start + _TOGETHER]
                if turn.is_over:
                    return freed  # the next sweep goes on
                # Only what is there: some storages end a call at the first path at which nothing is.
                self._bucket.delete([part.path for pair in some for part in pair if part is not None])
                freed += sum(blob.size_bytes for blob, _ in some)
            old = [each.path for each in uses.values() if now - each.modified > GRACE_S]  # of blobs that are gone
            if old and not turn.is_over:
                self._bucket.delete(old)
        return freed

    def let_pass(self) -> bool:
        """Waits for the end of a sweep that is under way. Whether one was.

        Raises:
            BlobsAway: the bucket does not answer.
        """
        now = seen = self._bucket.head(_MARK)
        if seen is None:
            return False
        while now is not None and now.tag == seen.tag and not self._clear_if_stale(seen.tag):
            time.sleep(_AGAIN_S)
            now = self._bucket.head(_MARK)
        return True

    def _clear_if_stale(self, tag: str) -> bool:
        if self._other[0] != tag:
            self._other = (tag, time.monotonic())
        if not tag or time.monotonic() - self._other[1] < STALE_S:
            return False
        self._bucket.delete([_MARK])
        return True


def used(sha256: str) -> str:
    """The path of the empty object that tells when a blob was put again."""
    return f"{_USED}/{sha256}"


def name_of(meta: ObjectMeta) -> str:
    """The hash by which an object is named."""
    return meta.path.rpartition("/")[2]
