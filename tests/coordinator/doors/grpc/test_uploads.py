"""Updates on their way to disk: which are accepted, which are refused and when, and what survives an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.doors.grpc.uploads import Upload
from coordinator.state.errors import BlobNotFound, InvalidUpdate, RoundClosed, UploadInProgress, WrongOffset
from coordinator.state.round_state import UpdateReceipt
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.partials import PartialKey, received_bytes
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.plan import TensorSpec
from protos.codec import open_update, parse_header
from tests.builders import blob_path
from tests.coordinator.doors.grpc.updates import Sample, ref

SAMPLE = Sample()


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "store")


@contextmanager
def opened(blobs: DirectoryBlobStore, sample: Sample, blob: BlobRef, offset: int = 0) -> Iterator[Upload]:
    with closing(Upload(blobs, sample.manifest, blob)) as upload:
        upload.open(offset)
        yield upload


def send(
    blobs: DirectoryBlobStore, sample: Sample, content: bytes, blob: BlobRef | None = None, step: int = 100
) -> UpdateReceipt:
    with opened(blobs, sample, blob or ref(content)) as upload:
        for start in range(0, len(content), step):
            upload.write(content[start : start + step])
        return upload.finish()


def held(blobs: DirectoryBlobStore, sample: Sample, blob: BlobRef) -> int:
    return received_bytes(blobs, PartialKey(sample.job_id, sample.round, sample.client, blob.sha256), blob)


def test_a_valid_update_becomes_a_blob_and_a_receipt(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    receipt = send(blobs, SAMPLE, content)
    assert receipt == UpdateReceipt(ref(content), 1200, {"loss": 0.5, "steps": 10.0})
    assert blob_path(blobs, receipt.blob.sha256).read_bytes() == content
    assert blobs.partial_keys() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2000), st.booleans()), max_size=8))
def test_any_cuts_and_any_chunks_give_the_same_blob(tmp_path: Path, cuts: list[tuple[int, bool]]) -> None:
    blobs = DirectoryBlobStore(tmp_path / "store")
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    if blobs.exists(blob.sha256):
        blob_path(blobs, blob.sha256).unlink()
    with ExitStack() as connection:
        upload = connection.enter_context(opened(blobs, SAMPLE, blob))
        for cut, breaks in [*sorted(cuts), (len(content), True)]:
            upload.write(content[upload.received : cut])
            if breaks:
                connection.close()
                assert held(blobs, SAMPLE, blob) == upload.received
                upload = connection.enter_context(opened(blobs, SAMPLE, blob, upload.received))
        assert upload.finish().blob == blob
    assert blob_path(blobs, blob.sha256).read_bytes() == content


def test_an_upload_goes_on_only_where_it_stopped(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    with opened(blobs, SAMPLE, blob) as upload:
        upload.write(content[:500])
    for offset in (0, 499, 501):
        with (
            pytest.raises(WrongOffset, match="500 bytes of this update are here") as caught,
            opened(blobs, SAMPLE, blob, offset),
        ):
            pass
        assert caught.value.expected == 500
    with opened(blobs, SAMPLE, blob, 500) as upload:
        upload.write(content[500:])
        upload.finish()


def test_a_stream_that_ends_early_keeps_what_came(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    for size in (3, 700):  # within the length field, within the data
        with opened(blobs, SAMPLE, blob, held(blobs, SAMPLE, blob)) as upload:
            upload.write(content[upload.received : size])
            with pytest.raises(WrongOffset, match=f"after {size} of {len(content)} bytes"):
                upload.finish()
        assert held(blobs, SAMPLE, blob) == size


def test_a_client_has_a_single_update_under_way(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    """Otherwise a client could fill the disk with the beginnings of updates."""
    contents = [replace(SAMPLE, metadata={"decay": f"0.{n}"}).bytes_in(tmp_path) for n in range(1, 6)]
    beside = replace(SAMPLE, client="site-a-2").bytes_in(tmp_path)
    with opened(blobs, replace(SAMPLE, client="site-a-2"), ref(beside)) as upload:
        upload.write(beside[:300])
    for content in contents:
        with opened(blobs, SAMPLE, ref(content)) as upload:
            upload.write(content[:300])
    assert len(blobs.partial_keys()) == 2  # the last update, and the update of site-a-2
    assert held(blobs, SAMPLE, ref(contents[-1])) == 300
    send(blobs, SAMPLE, contents[0])
    assert blobs.exists(ref(contents[0]).sha256)


def test_two_connections_do_not_send_the_same_update_at_once(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    with opened(blobs, SAMPLE, blob) as first:
        first.write(content[:300])
        with pytest.raises(UploadInProgress, match="another connection"), opened(blobs, SAMPLE, blob, 300):
            pass
        other = replace(SAMPLE, client="site-b")
        other_content = other.bytes_in(tmp_path)
        send(blobs, other, other_content)  # another client's upload is not blocked
        first.write(content[300:])
        first.finish()
    assert blobs.exists(blob.sha256)


def test_what_became_a_blob_without_a_report_is_taken_up_at_its_end(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    receipt = send(blobs, SAMPLE, content)
    assert held(blobs, SAMPLE, blob) == len(content)
    assert held(blobs, SAMPLE, replace(blob, size_bytes=len(content) - 1)) == 0
    stored = blob_path(blobs, blob.sha256)
    with opened(blobs, SAMPLE, blob, len(content)) as upload:
        with pytest.raises(InvalidUpdate, match="more than the announced"):
            upload.write(b"x")
        assert stored.read_bytes() == content
    with opened(blobs, SAMPLE, blob, len(content)) as upload:
        assert upload.finish() == receipt
    assert stored.read_bytes() == content
    assert blobs.partial_keys() == []

    other = replace(SAMPLE, client="site-b")  # a client cannot claim another client's update
    with pytest.raises(InvalidUpdate, match="this upload is for 'site-b'"), opened(blobs, other, blob, len(content)):
        pass
    assert stored.read_bytes() == content
    assert blobs.partial_keys() == []


def test_what_became_a_blob_without_a_report_outlives_a_sweep_while_it_is_taken_up(
    blobs: DirectoryBlobStore, tmp_path: Path
) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = send(blobs, SAMPLE, content).blob
    with opened(blobs, SAMPLE, blob, len(content)) as upload:
        blob_path(blobs, blob.sha256).unlink()
        upload.finish()
    assert blob_path(blobs, blob.sha256).read_bytes() == content


def test_bytes_that_do_not_have_the_announced_hash_are_dropped(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    wrong = BlobRef("0" * 64, len(content))
    with pytest.raises(InvalidUpdate, match=r"blob\.sha256: .*send the file again from offset 0"):
        send(blobs, SAMPLE, content, wrong)
    assert held(blobs, SAMPLE, wrong) == 0
    assert not blobs.exists(ref(content).sha256)


def test_a_flipped_bit_on_the_servers_disk_is_noticed_when_the_upload_resumes(
    blobs: DirectoryBlobStore, tmp_path: Path
) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    with opened(blobs, SAMPLE, blob) as upload:
        upload.write(content[:-4])
    path = tmp_path / "store" / "partial" / blobs.partial_keys()[0]
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with opened(blobs, SAMPLE, blob, len(content) - 4) as upload:
        upload.write(content[-4:])
        with pytest.raises(WrongOffset, match="another hash; send the update from the start") as caught:
            upload.finish()
    assert (caught.value.expected, blobs.partial_keys()) == (0, [])
    assert send(blobs, SAMPLE, content).blob == blob


def test_a_header_that_is_damaged_on_the_servers_disk_is_asked_for_again(
    blobs: DirectoryBlobStore, tmp_path: Path
) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    blob = ref(content)
    with opened(blobs, SAMPLE, blob) as upload:
        upload.write(content[:-4])
    path = tmp_path / "store" / "partial" / blobs.partial_keys()[0]
    path.write_bytes(b"\xff" * (len(content) - 4))
    with (
        pytest.raises(WrongOffset, match="what was here of it is damaged"),
        opened(blobs, SAMPLE, blob, len(content) - 4),
    ):
        pass
    assert held(blobs, SAMPLE, blob) == 0
    assert send(blobs, SAMPLE, content).blob == blob


def test_a_header_that_claims_more_than_the_file_is_refused(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    claims = (len(content) + 8).to_bytes(8, "little") + content[8:]
    with pytest.raises(InvalidUpdate, match=f"header: claims more than the {len(content)} bytes"):
        send(blobs, SAMPLE, claims)
    assert blobs.partial_keys() == []


@pytest.mark.parametrize("name", list(SAMPLE.tensors))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_tensor(
    blobs: DirectoryBlobStore, tmp_path: Path, name: str, value: float
) -> None:
    with pytest.raises(InvalidUpdate, match=f"tensor '{name}' holds NaN or infinite values"):
        send(blobs, SAMPLE, SAMPLE.with_value(name, value).bytes_in(tmp_path))
    assert blobs.partial_keys() == []


@pytest.mark.parametrize("name", list(SAMPLE.tensors))
def test_only_second_moments_must_not_be_negative(blobs: DirectoryBlobStore, tmp_path: Path, name: str) -> None:
    content = SAMPLE.with_value(name, -1.0).bytes_in(tmp_path)
    if name.endswith(("/rms", "/residual")):
        with pytest.raises(InvalidUpdate, match=f"tensor '{name}' holds negative values"):
            send(blobs, SAMPLE, content)
        assert blobs.partial_keys() == []
    else:
        send(blobs, SAMPLE, content)


@pytest.mark.parametrize("size", [0, 1, 100, 10**12])
def test_an_impossible_size_is_refused_before_any_file_is_created(blobs: DirectoryBlobStore, size: int) -> None:
    with pytest.raises(InvalidUpdate, match=rf"blob\.size_bytes: {size}; an update of this round has \d+ to \d+ bytes"):
        Upload(blobs, SAMPLE.manifest, BlobRef("0" * 64, size))
    assert blobs.partial_keys() == []


def test_a_byte_too_many_is_refused(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    with pytest.raises(InvalidUpdate, match=f"more than the announced {len(content)} bytes"):
        send(blobs, SAMPLE, content + b"\0", ref(content))
    assert blobs.partial_keys() == []


def refused_by_header(blobs: DirectoryBlobStore, sample: Sample, content: bytes, reason: str) -> None:
    """The update is refused as soon as its header is complete."""
    start = parse_header(content).data_start
    with opened(blobs, sample, ref(content)) as upload:
        upload.write(content[: start - 1])
        with pytest.raises(InvalidUpdate, match=reason):
            upload.write(content[start - 1 : start])
    assert blobs.partial_keys() == []


METADATA: list[tuple[str, Any, str]] = [
    ("format", "fedgalore.update.v0", "'fedgalore.update.v0'; this upload is for 'fedgalore.update.v1'"),
    ("format", None, "missing"),
    ("job", "job-2", "this upload is for 'job-1'"),
    ("round", "4", "'4'; this upload is for '3'"),
    ("client", "site-b", "this upload is for 'site-a'"),
    ("num_examples", "0", "at least 1 is needed"),
    ("num_examples", "-5", "at least 1 is needed"),
    ("num_examples", "1e3", "at least 1 is needed"),
    ("num_examples", "9" * 40, "at least 1 is needed"),
    ("decay", "0", "at least 0 and at most 1"),
    ("decay", "1.01", "at least 0 and at most 1"),
    ("decay", "nan", "at least 0 and at most 1"),
    ("decay", "all", "at least 0 and at most 1"),
    ("metrics", "loss", "not JSON"),
    ("metrics", "[]", "a JSON object of numbers"),
    ("metrics", '{"loss": NaN}', "a finite number"),
    ("metrics", '{"loss": 1e999}', "a finite number"),
    ("metrics", '{"loss": true}', "a finite number"),
    ("metrics", '{"loss": {"a": 1}}', "a finite number"),
    ("metrics", '{"loss": 1' + "0" * 400 + "}", "a finite number"),
    ("metrics", '{"loss": "0.5"}', "a finite number"),
    ("colour", "red", "unknown; leave it out"),
]


@pytest.mark.parametrize(("field", "value", "reason"), METADATA)
def test_metadata_that_does_not_fit_is_refused_by_field(
    blobs: DirectoryBlobStore, tmp_path: Path, field: str, value: str | None, reason: str
) -> None:
    content = replace(SAMPLE, metadata={field: value}).bytes_in(tmp_path)
    refused_by_header(blobs, SAMPLE, content, rf"metadata\.{field}[^:]*: .*{reason}")


def test_other_tensors_than_the_plans_are_refused_from_the_header(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    first, *rest = SAMPLE.tensors
    dtype, shape = SAMPLE.tensors[first].dtype, SAMPLE.tensors[first].shape
    for other in (TensorSpec(dtype, (shape[0] * shape[1],)), TensorSpec("F16" if dtype == "F32" else "F32", shape)):
        changed = replace(SAMPLE, tensors={**SAMPLE.tensors, first: other}).bytes_in(tmp_path)
        reason = rf"tensor '{first}' is {other.dtype} .*; this job's plan asks for {dtype}"
        refused_by_header(blobs, SAMPLE, changed, reason)
    renamed = replace(
        SAMPLE, tensors={"x": SAMPLE.tensors[first], **{name: SAMPLE.tensors[name] for name in rest}}
    ).bytes_in(tmp_path)
    refused_by_header(blobs, SAMPLE, renamed, f"tensor '{first}' is missing")


def test_tensors_that_are_too_few_or_too_many_are_refused_by_name(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    first, *rest = SAMPLE.tensors
    fewer = replace(SAMPLE, tensors={name: SAMPLE.tensors[name] for name in rest})
    refused_by_header(blobs, SAMPLE, fewer.bytes_in(tmp_path), f"tensor '{first}' is missing")
    more = replace(SAMPLE, tensors={**SAMPLE.tensors, "spy": TensorSpec("F32", (1,))})
    refused_by_header(blobs, SAMPLE, more.bytes_in(tmp_path), "tensor 'spy' is not in this job's plan; leave it out")


def test_an_announced_size_that_the_header_does_not_bear_out_is_refused(
    blobs: DirectoryBlobStore, tmp_path: Path
) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    for size in (len(content) - 8, len(content) + 8):
        with pytest.raises(InvalidUpdate, match=rf"blob\.size_bytes: {size}; .* has {len(content)} bytes"):
            send(blobs, SAMPLE, content, BlobRef(ref(content).sha256, size), step=len(content) - 8)
        assert blobs.partial_keys() == []


def test_a_header_longer_than_any_valid_header_is_refused_after_eight_bytes(
    blobs: DirectoryBlobStore, tmp_path: Path
) -> None:
    content = replace(SAMPLE, metadata={"metrics": " " * 70_000 + "{}"}).bytes_in(tmp_path)
    blob = BlobRef(ref(content).sha256, len(SAMPLE.bytes_in(tmp_path)))
    with opened(blobs, SAMPLE, blob) as upload:
        upload.write(content[:7])
        with pytest.raises(InvalidUpdate, match="shorten the metrics"):
            upload.write(content[7:8])
    assert blobs.partial_keys() == []


def test_noise_is_refused_after_eight_bytes(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = bytes(len(SAMPLE.bytes_in(tmp_path)))
    with pytest.raises(InvalidUpdate, match="not a safetensors file"):
        send(blobs, SAMPLE, content, step=8)
    assert blobs.partial_keys() == []


def test_an_upload_whose_partial_file_was_deleted_is_refused(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    content = SAMPLE.bytes_in(tmp_path)
    with opened(blobs, SAMPLE, ref(content)) as upload:
        upload.write(content)
        blobs.discard_partial(blobs.partial_keys()[0])
        with pytest.raises(RoundClosed):
            upload.finish()
    with pytest.raises(BlobNotFound):
        blob_path(blobs, ref(content).sha256)


def test_the_blob_reads_back_as_the_update(blobs: DirectoryBlobStore, tmp_path: Path) -> None:
    name = next(iter(SAMPLE.tensors))
    receipt = send(blobs, SAMPLE, SAMPLE.with_value(name, 7.0).bytes_in(tmp_path), step=2**20)
    update = open_update(blob_path(blobs, receipt.blob.sha256))
    assert update.tensor(name).reshape(-1)[-1] == 7.0
    assert update.metadata["client"] == "site-a"
