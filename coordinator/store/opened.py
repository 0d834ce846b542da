"""The blob store that the settings name."""

from __future__ import annotations

from pathlib import Path

from coordinator.store.blob_store import BlobsAway, BlobStore
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


def refusal(folder: Path, error: OSError) -> str:
    """What a person reads where the store that the settings name cannot be used."""
    if isinstance(error, BlobsAway):
        return f"FEDGALORE_BLOBS: {error}"
    return f"FEDGALORE_BLOB_DIR: {folder} cannot be used ({error}); name a folder that can be written"
