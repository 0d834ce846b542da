"""An update that several coordinators receive in turn, on machines that share nothing but a bucket."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.doors.grpc.uploads import Upload
from coordinator.state.errors import RoundClosed
from coordinator.store.bucket_blob_store import BucketBlobStore
from coordinator.store.partials import PartialKey, received_bytes
from tests.builders import content_of
from tests.coordinator.doors.grpc.updates import Sample, ref
from tests.s3_server import S3Server

pytestmark = pytest.mark.bucket
SAMPLE = Sample()
PIECE_BYTES = 300


@pytest.mark.parametrize("killed", [False, True], ids=["a broken line", "a killed coordinator"])
def test_an_upload_goes_on_at_another_coordinator(s3_server: S3Server, tmp_path: Path, killed: bool) -> None:
    url, content = f"s3://blobs/{uuid.uuid4().hex}", SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    key = PartialKey(SAMPLE.job_id, SAMPLE.round, SAMPLE.client, blob.sha256)
    at = machines = sent_again = 0
    left = []  # what nobody closes
    while at < len(content):
        blobs = BucketBlobStore(url, tmp_path / f"machine-{machines}", 2**20, PIECE_BYTES)
        upload, here = Upload(blobs, SAMPLE.manifest, blob), received_bytes(blobs, key, blob)
        assert 0 <= at - here <= (PIECE_BYTES if killed else 0)
        sent_again += at - here
        upload.open(here)
        at = min(here + PIECE_BYTES + 100, len(content))
        for start in range(here, at, 100):
            upload.write(content[start : min(start + 100, at)])
        if at == len(content):
            assert upload.finish().blob == blob
        if killed:
            left.append(upload)
        else:
            upload.close()
        machines += 1
    for upload in left:  # as those that wake up later
        upload.close()
    assert machines > 2
    assert (sent_again > 0) is killed
    assert content_of(blobs, blob.sha256) == content
    assert blobs.partial_keys() == []


def test_the_connection_that_comes_later_has_the_upload(s3_server: S3Server, tmp_path: Path) -> None:
    url, content = f"s3://blobs/{uuid.uuid4().hex}", SAMPLE.bytes_in(tmp_path)
    first, second = (
        Upload(BucketBlobStore(url, tmp_path / name, 2**20, PIECE_BYTES), SAMPLE.manifest, ref(content))
        for name in ("one", "two")
    )
    with closing(first), closing(second):
        first.open(0)
        first.write(content[: 2 * PIECE_BYTES])
        second.open(2 * PIECE_BYTES)
        second.write(content[2 * PIECE_BYTES :])
        first.write(content[2 * PIECE_BYTES :])
        with pytest.raises(RoundClosed):
            first.finish()
        assert second.finish().blob == ref(content)
