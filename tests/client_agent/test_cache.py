"""Files by content: whole or not there, never outside the work folder, deleted oldest first."""

import hashlib
import os
from pathlib import PosixPath

import pytest

from client_agent.cache import Cache, blob_named, claimed, find_local
from client_agent.errors import InvalidExchange, WorkDirUnusable
from fedgalore.process.blob_ref import BlobRef


def blob_of(content: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(content).hexdigest(), len(content))


def put(cache: Cache, content: bytes, age_s: float = 0) -> BlobRef:
    blob = blob_of(content)
    cache.partial(blob).write_bytes(content)
    path = cache.adopt(blob)
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    return blob


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "work")


def test_an_adopted_blob_is_looked_up_by_its_content(cache):
    blob = blob_of(b"weights")
    assert cache.find(blob) is None
    assert cache.find(put(cache, b"weights")).read_bytes() == b"weights"
    assert not cache.partial(blob).exists()


def test_other_bytes_are_refused_and_removed(cache):
    blob = blob_of(b"weights")
    cache.partial(blob).write_bytes(b"w3ights")
    with pytest.raises(InvalidExchange, match="another content"):
        cache.adopt(blob)
    assert not cache.partial(blob).exists()
    assert cache.find(blob) is None


def test_a_blob_cut_short_on_disk_counts_as_missing(cache):
    blob = put(cache, b"weights")
    cache.find(blob).write_bytes(b"wei")
    assert cache.find(blob) is None


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_hash_that_is_none_never_becomes_a_path(sha256):
    with pytest.raises(InvalidExchange, match="no SHA-256"):
        blob_named(sha256, 1)


def test_prune_deletes_the_longest_unused_until_the_cap_holds(cache, tmp_path):
    nowhere = tmp_path / "no-model"
    old, kept, middle, young = (
        put(cache, text * 100, age) for text, age in ((b"a", 9), (b"b", 8), (b"c", 7), (b"d", 1))
    )
    cache.find(old)  # used again: young now
    cache.prune([kept.sha256], nowhere, max_bytes=200)  # beside the one that is kept
    assert [cache.find(blob) is not None for blob in (old, kept, middle, young)] == [True, True, False, True]
    cache.prune([kept.sha256], nowhere, max_bytes=0)
    assert [cache.find(blob) is not None for blob in (old, kept, middle, young)] == [False, True, False, False]


def test_a_model_is_assembled_from_blobs_and_local_files(cache, tmp_path):
    config = put(cache, b"config")
    local = tmp_path / "elsewhere" / "deep" / "model.safetensors"
    local.parent.mkdir(parents=True)
    local.write_bytes(b"tensors")
    files = {"config.json": config, "model.safetensors": blob_of(b"tensors")}
    sources = find_local([tmp_path / "elsewhere"], files.values(), cache.hashes)
    assert sources == {blob_of(b"tensors").sha256: local}

    assert not cache.has_model(files)
    folder = cache.assemble_model(files, {**sources, config.sha256: cache.find(config)})
    assert folder == cache.model_folder(files)
    assert (folder / "config.json").read_bytes() == b"config"
    assert (folder / "model.safetensors").read_bytes() == b"tensors"
    assert cache.has_model(files)

    local.write_bytes(b"changed")  # same size: only the content tells
    assert not cache.has_model(files)
    local.write_bytes(b"tensors")
    assert cache.assemble_model(files, {**sources, config.sha256: cache.find(config)}) == folder  # again: replaced
    assert cache.has_model(files)


def test_files_that_a_killed_agent_left_of_a_model_are_deleted_with_the_next_model(cache):
    files = {"config.json": put(cache, b"config")}
    left = cache.model_folder(files).with_name(f".{cache.model_folder(files).name}-abc") / "files"
    left.mkdir(parents=True)
    folder = cache.assemble_model(files, {blob.sha256: cache.find(blob) for blob in files.values()})
    assert list(folder.parent.iterdir()) == [folder]


def a_model(cache: Cache, *contents: bytes, age_s: float = 0) -> dict[str, BlobRef]:
    """A model of blobs that was used `age_s` seconds ago."""
    files = {f"{i}.json": blob_of(content) for i, content in enumerate(contents)}
    for content, blob in zip(contents, files.values(), strict=True):
        if not cache.find(blob):
            put(cache, content)
    folder = cache.assemble_model(files, {blob.sha256: cache.find(blob) for blob in files.values()})
    stamp = folder.stat().st_mtime - age_s
    os.utime(folder, (stamp, stamp))
    return files


def test_prune_spares_the_model_in_use_and_deletes_the_longest_unused_of_the_others(cache):
    used = a_model(cache, b"u" * 1000, age_s=90)
    old, older, young = (a_model(cache, bytes([i]) * 100, b"shared" * 10, age_s=i) for i in (20, 30, 10))
    assert cache.has_model(older)  # used again: the youngest now
    loose = put(cache, b"l" * 100)

    def held() -> list[bool]:
        return [cache.model_folder(files).is_dir() for files in (used, old, older, young)]

    cache.prune([], cache.model_folder(used), max_bytes=460)  # 3 * 100 + 60 shared + 100: all of it, counted once
    assert held() == [True, True, True, True]
    assert cache.find(loose)
    cache.prune([], cache.model_folder(used), max_bytes=360)
    assert held() == [True, True, True, True]  # what is in no model goes first
    assert cache.find(loose) is None
    cache.prune([], cache.model_folder(used), max_bytes=260)
    assert held() == [True, False, True, True]
    assert cache.find(old["0.json"]) is None  # what only that model needed is gone with it
    assert cache.find(old["1.json"])
    cache.prune([], cache.model_folder(used), max_bytes=0)
    assert held() == [True, False, False, False]
    assert cache.has_model(used)
    assert cache.find(used["0.json"])
    assert cache.find(young["1.json"]) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.json", "not the plain name"),
        ("/etc/passwd", "not the plain name"),
        ("a/../../b.json", "not the plain name"),
        ("a/b.json", "not the plain name"),
        ("a\\b.json", "not the plain name"),
        ("a\0.json", "not the plain name"),
        ("", "no file of a model"),
        ("pytorch_model.bin", "no file of a model"),
        ("modeling_own.py", "no file of a model"),
    ],
)
def test_a_model_file_is_no_path_no_pickle_and_no_program(cache, name, words):
    with pytest.raises(InvalidExchange, match=f"the coordinator named a bad model file: .*{words}"):
        cache.model_folder({"config.json": blob_of(b"{}"), name: blob_of(b"")})


def test_a_model_file_never_goes_through_the_link_of_another(cache, tmp_path, monkeypatch):
    """On a file system that takes two names for one: the site's own file is not written to."""
    site = tmp_path / "site.safetensors"
    site.write_bytes(b"tensors")
    evil = put(cache, b"evil")
    files = {"a.json": blob_of(b"tensors"), "A.json": evil}
    sources = {blob_of(b"tensors").sha256: site, evil.sha256: cache.find(evil)}
    monkeypatch.setattr(PosixPath, "__truediv__", lambda self, name: PosixPath(f"{self}/{name}".replace("A.", "a.")))
    with pytest.raises(FileExistsError):
        cache.assemble_model(files, sources)
    assert site.read_bytes() == b"tensors"


def test_updates_belong_to_client_job_and_round(cache):
    first, second = cache.update("a", "job-1", 3), cache.update("a", "job-1", 4)
    others = [cache.update("a", job, 4) for job in ("job-10", "job", "job-1.x")]
    assert first != second != cache.update("b", "job-1", 4)
    for path in (first, second, *others):
        path.write_bytes(b"x")
    cache.forget_updates("job-1", but=second)
    assert (first.exists(), second.exists()) == (False, True)
    cache.forget_updates("job-1")
    assert not second.exists()
    assert all(path.exists() for path in others)
    with pytest.raises(InvalidExchange, match="no identifier"):
        cache.update("a", "../job", 1)


def test_what_is_kept_belongs_to_client_and_job_and_goes_from_version_to_version(cache):
    assert cache.last_kept("a", "job-1", 3) is None
    others = [
        cache.kept(client, job, 2)
        for client, job in (("xa", "job-1"), ("a.b", "job-1"), ("a", "job-10"), ("a", "job"), ("b", "job-1"))
    ]
    mine = [cache.kept("a", "job-1", version) for version in (1, 2, 9, 10)]
    for path in (*others, *mine):
        path.write_bytes(b"x")
    _, second, _, last = mine
    assert cache.last_kept("a", "job-1", 2) == second
    assert [path.exists() for path in mine] == [False, True, False, False]  # later ones were not aggregated
    assert cache.last_kept("a", "job-1", 2) == second  # the same round once more: the same start
    last.write_bytes(b"x")
    assert cache.last_kept("a", "job-1", 10) == last
    assert [path.exists() for path in mine] == [False, False, False, True]
    assert cache.last_kept("a", "job-1", 0) is None  # no update of it was ever aggregated
    assert not last.exists()
    assert cache.last_kept("a", "job-1", 12) is None  # this site lost what it kept
    last.write_bytes(b"x")
    assert all(path.exists() for path in others)
    cache.forget_updates("job-1")
    assert last.exists()
    cache.forget_kept("a", "job-1")
    assert not last.exists()
    assert all(path.exists() for path in others)
    draft = last.with_name(f"{last.name}.draft")  # of a process that was killed
    draft.write_bytes(b"x")
    cache.forget_kept("a", "job-1")
    assert not draft.exists()
    with pytest.raises(InvalidExchange, match="no identifier"):
        cache.kept("a", "../job", 1)


@pytest.mark.parametrize(("path_of", "days"), [(Cache.update, 7), (Cache.kept, 30)], ids=["updates", "kept"])
def test_prune_deletes_what_is_too_old_for_any_round(cache, tmp_path, path_of, days):
    stale, fresh = path_of(cache, "a", "job-1", 1), path_of(cache, "a", "job-2", 1)
    for path, age in ((stale, days + 1), (fresh, days - 1)):
        path.write_bytes(b"x")
        stamp = path.stat().st_mtime - age * 86_400
        os.utime(path, (stamp, stamp))
    cache.prune([], tmp_path / "no-model", max_bytes=0)
    assert (stale.exists(), fresh.exists()) == (False, True)


def test_a_work_folder_is_claimed_by_a_single_agent_at_a_time(tmp_path):
    with claimed(tmp_path / "work"):
        with pytest.raises(WorkDirUnusable, match="another agent works in"), claimed(tmp_path / "work"):
            pass
        with claimed(tmp_path / "other"):
            pass
    with claimed(tmp_path / "work"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(WorkDirUnusable, match="cannot be written"), claimed(tmp_path / "file"):
        pass
