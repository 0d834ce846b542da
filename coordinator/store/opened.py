"""The blob store that the settings name."""

from __future__ import annotations

from pathlib import Path

from coordinator.store.blob_store import BlobStore
from coordinator.store.directory_blob_store import DirectoryBlobStore


def open_blobs(folder: Path, bucket: str | None, cache_bytes: int) -> BlobStore:
    """The store in the bucket, with copies in the folder; in the folder itself where no bucket is named.

    Raises:
        BlobsAway: the bucket's library is not installed, or its settings do not fit.
        OSError: the folder cannot be used.
    """
    if bucket is None:
        return DirectoryBlobStore(folder)
    from coordinator.store.bucket_blob_store import BucketBlobStore

    return BucketBlobStore(bucket, folder, cache_bytes)
