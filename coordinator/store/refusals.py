"""What keeps the place of the blobs from taking or giving anything for now, in the words of doors and aggregator."""

from __future__ import annotations

from typing import Any

import structlog

from coordinator.state.errors import StorageAway, StorageFull
from coordinator.store.blob_store import BlobsAway
from fedgalore.process.disk import takes_nothing

log = structlog.get_logger(__name__)


def passes(error: BaseException) -> bool:
    """Whether the error is one of a disk that is full or a bucket that is away: later, the same work goes on."""
    return takes_nothing(error) or _is_away(error)


def noted(error: BaseException, **facts: Any) -> StorageFull | StorageAway | None:
    """What a caller hears of an error that `passes`, which is logged with the facts; None of any other error."""
    if takes_nothing(error):
        log.error("disk_full", reason=str(error), **facts)
        return StorageFull("the coordinator's disk takes nothing more; try again when its operator has made room")
    if _is_away(error):
        log.error("bucket_away", reason=str(error), **facts)
        return StorageAway("the coordinator's bucket does not answer, or refuses; try again when it does")
    return None


def _is_away(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, BlobsAway) or _is_away(error.__cause__))
