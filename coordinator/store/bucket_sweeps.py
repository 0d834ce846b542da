"""Deleting from a bucket while others put: buckets have no locks, so a sweep shows a mark, and who puts looks for it.

Who puts a blob that is there already renews the time of its last use, and then looks for the mark. Without a mark,
every sweep to come sees that time, because it shows its mark before it looks at times. With one, who puts waits for the
end of that sweep, and looks whether the blob is there. One sweep at a time has the mark. It deletes nothing after
`SWEEP_S`, so a mark that stands for `STALE_S` belongs to a process that died.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from coordinator.store.bucket import Bucket

SWEEP_S = 8.0
STALE_S = 25.0  # calls under way when a sweep's time is up have ended by then: `QUICK_S`
QUICK_S = 5.0  # patience of a sweep's calls
_AGAIN_S = 0.1
_MARK = "sweeping"


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
