"""Files by content: whole or not there, never outside the work folder, deleted oldest first."""

import hashlib
import os

import pytest

from client_agent.cache import Blob, Cache, find_local
from client_agent.errors import Rejected


def blob_of(content: bytes) -> Blob:
    return Blob(hashlib.sha256(content).hexdigest(), len(content))


def put(cache: Cache, content: bytes, age_s: float = 0) -> Blob:
    blob = blob_of(content)
    cache.partial(blob).write_bytes(content)
    path = cache.adopt(blob)
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    return blob


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "work")


def test_a_blob_is_found_by_content_once_adopted(cache):
    blob = blob_of(b"weights")
    assert cache.find(blob) is None
    assert cache.find(put(cache, b"weights")).read_bytes() == b"weights"
    assert not cache.partial(blob).exists()


def test_other_bytes_are_refused_and_removed(cache):
    blob = blob_of(b"weights")
    cache.partial(blob).write_bytes(b"w3ights")
    with pytest.raises(Rejected, match="another content"):
        cache.adopt(blob)
    assert not cache.partial(blob).exists()
    assert cache.find(blob) is None


def test_a_blob_cut_short_on_disk_counts_as_missing(cache):
    blob = put(cache, b"weights")
    cache.find(blob).write_bytes(b"wei")
    assert cache.find(blob) is None


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_hash_that_is_none_never_becomes_a_path(sha256):
    with pytest.raises(Rejected, match="no SHA-256"):
        Blob(sha256, 1)


def test_prune_deletes_the_longest_unused_until_the_cap_holds(cache):
    old, kept, middle, young = (
        put(cache, text * 100, age) for text, age in ((b"a", 9), (b"b", 8), (b"c", 7), (b"d", 1))
    )
    cache.find(old)  # used again: young now
    cache.prune([kept.sha256], max_bytes=300)
    assert [cache.find(blob) is not None for blob in (old, kept, middle, young)] == [True, True, False, True]
    cache.prune([kept.sha256], max_bytes=0)
    assert [cache.find(blob) is not None for blob in (old, kept, middle, young)] == [False, True, False, False]


def test_a_model_is_assembled_from_blobs_and_local_files(cache, tmp_path):
    own = put(cache, b"config")
    local = tmp_path / "elsewhere" / "deep" / "model.safetensors"
    local.parent.mkdir(parents=True)
    local.write_bytes(b"tensors")
    files = {"config.json": own, "1_Pooling/model.safetensors": blob_of(b"tensors")}
    found = find_local([tmp_path / "elsewhere"], files.values())
    assert found == {blob_of(b"tensors").sha256: local}

    assert not cache.has_model(files)
    folder = cache.assemble_model(files, {**found, own.sha256: cache.find(own)})
    assert folder == cache.model_folder(files)
    assert (folder / "config.json").read_bytes() == b"config"
    assert (folder / "1_Pooling" / "model.safetensors").read_bytes() == b"tensors"
    assert cache.has_model(files)

    cache.prune([], max_bytes=0)  # linked from a model: spared, and nothing to gain
    assert cache.has_model(files)

    local.write_bytes(b"changed")  # same size: only the content tells
    assert not cache.has_model(files)
    local.write_bytes(b"tensors")
    assert cache.assemble_model(files, {**found, own.sha256: cache.find(own)}) == folder  # again: replaced
    assert cache.has_model(files)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_model_file_can_not_leave_its_folder(cache, name):
    with pytest.raises(Rejected, match="no path inside a folder"):
        cache.model_folder({name: blob_of(b"")})


def test_updates_belong_to_client_job_and_round(cache):
    first, second = cache.update("a", "job-1", 3), cache.update("a", "job-1", 4)
    assert first != second != cache.update("b", "job-1", 4)
    for path in (first, second):
        path.write_bytes(b"x")
    cache.forget_updates(but=second)
    assert (first.exists(), second.exists()) == (False, True)
    cache.forget_updates()
    assert not second.exists()
    with pytest.raises(Rejected, match="no identifier"):
        cache.update("a", "../job", 1)
