"""What every blob store must do; another implementation is another line in `IMPLEMENTATIONS`."""

from __future__ import annotations

import hashlib
import itertools
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.state.errors import BlobNotFound
from coordinator.store.blob_store import GRACE_S, SPENT_GRACE_S, BlobStore, PartialInUse
from coordinator.store.bucket_blob_store import BucketBlobStore
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.process.blob_ref import BlobRef
from tests.builders import put_bytes
from tests.s3_server import S3Server

KEY = "update+job-1+3+site-a+00"


@dataclass(frozen=True)
class Implementation:
    """A blob store in a separate place. `opened`: opens the store as another process would."""

    opened: Callable[[], BlobStore]
    damage: Callable[[str, bytes], None]  # changes a blob's content without the store


def in_directory(folder: Path, _: pytest.FixtureRequest) -> Implementation:
    def damage(sha256: str, content: bytes) -> None:
        (folder / "store" / "sha256" / sha256[:2] / sha256).write_bytes(content)

    return Implementation(lambda: DirectoryBlobStore(folder / "store"), damage)


def in_bucket(folder: Path, request: pytest.FixtureRequest) -> Implementation:
    server: S3Server = request.getfixturevalue("s3_server")
    place = f"blobs/{uuid.uuid4().hex}"
    machines = itertools.count()

    def opened() -> BlobStore:  # each on a machine of its own
        return BucketBlobStore(f"s3://{place}", folder / f"machine-{next(machines)}", 2**26, PIECE_BYTES)

    def damage(sha256: str, content: bytes) -> None:
        server.write(f"{place}/sha256/{sha256[:2]}/{sha256}", content)

    return Implementation(opened, damage)


PIECE_BYTES = 2**18
IMPLEMENTATIONS = [
    pytest.param(in_directory, id="directory"),
    pytest.param(in_bucket, id="bucket", marks=pytest.mark.bucket),
]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest, tmp_path: Path) -> Implementation:
    build: Callable[[Path, pytest.FixtureRequest], Implementation] = request.param
    return build(tmp_path, request)


@pytest.fixture
def blobs(implementation: Implementation) -> BlobStore:
    return implementation.opened()


def ref(content: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(content).hexdigest(), len(content))


def content_of(blobs: BlobStore, blob: BlobRef) -> bytes:
    return blobs.read(blob.sha256, 0, blob.size_bytes + 1)


def long_after() -> float:
    """A time at which all blobs of now may be swept unless something names them."""
    return time.time() + GRACE_S + 1


# --- blobs ---------------------------------------------------------------------------------------------------


def test_a_blob_is_named_by_its_content(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"weights")
    assert blob == ref(b"weights")
    assert content_of(blobs, blob) == b"weights"


@pytest.mark.parametrize("move", [False, True])
def test_a_file_is_copied_or_moved_in_and_twice_is_once(blobs: BlobStore, tmp_path: Path, move: bool) -> None:
    content = bytes(range(256)) * 10_000  # more than one block
    refs = []
    for name in ("first", "second"):
        path = tmp_path / name
        path.write_bytes(content)
        refs.append(blobs.put_file(path, move=move))
        assert path.exists() is not move
    assert refs == [ref(content), ref(content)]
    assert content_of(blobs, refs[0]) == content
    assert blobs.sweep((), (), long_after()) == len(content)


def test_an_empty_file_is_a_blob(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"")
    assert blobs.read(blob.sha256, 0, 10) == b""
    assert blobs.holds(blob)


def test_reading_goes_from_an_offset_to_the_end(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"0123456789")
    assert blobs.read(blob.sha256, 4, 3) == b"456"
    assert blobs.read(blob.sha256, 8, 3) == b"89"
    assert blobs.read(blob.sha256, 10, 3) == b""


def test_an_open_blob_is_read_in_ranges_in_any_order(blobs: BlobStore) -> None:
    with closing(blobs.open(put_bytes(blobs, b"0123456789").sha256)) as file:
        assert file.size_bytes == 10
        assert [file.read(offset, 3) for offset in (8, 0, 10, 4)] == [b"89", b"012", b"", b"456"]
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda n: file.read(n % 10, 1), range(1000))
        assert b"".join(parts) == b"0123456789" * 100
    with pytest.raises(ValueError, match="closed"):
        file.read(0, 1)


def test_an_open_blob_is_read_to_its_end_when_it_is_swept(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"0123456789")
    with closing(blobs.open(blob.sha256)) as file:
        assert blobs.sweep((), (), long_after()) == 10
        assert not blobs.exists(blob.sha256)
        assert file.read(0, 10) == b"0123456789"


def test_a_blob_can_be_had_as_a_file_on_this_machine(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"0123456789")
    with blobs.on_disk(blob.sha256) as path:
        assert path.read_bytes() == b"0123456789"


def test_of_many_hashes_those_of_blobs_are_present(blobs: BlobStore) -> None:
    held = {put_bytes(blobs, bytes([number])).sha256 for number in range(3)}
    assert blobs.present([*held, "0" * 64, "", "../../secret"]) == held
    assert blobs.present([]) == set()


def test_a_missing_blob_and_an_invalid_hash_are_refused(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("keep out")
    for sha256 in ("0" * 64, "", "../../secret", "A" * 64, "0" * 63 + "\n", "0" * 64 + "\n"):
        assert not blobs.exists(sha256)
        with pytest.raises(BlobNotFound):
            blobs.open(sha256)
        with pytest.raises(BlobNotFound):
            blobs.read(sha256, 0, 1)
        with pytest.raises(BlobNotFound), blobs.on_disk(sha256):
            pass


def test_a_blob_is_held_at_its_size_only(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"0123456789")
    assert blobs.holds(blob)
    assert not blobs.holds(BlobRef(blob.sha256, 9))
    assert not blobs.holds(ref(b"another"))


def test_a_damaged_blob_is_noticed_and_gives_way_to_a_sound_copy(
    blobs: BlobStore, implementation: Implementation
) -> None:
    blob = put_bytes(blobs, b"0123456789")
    assert not blobs.discard_damaged(blob.sha256)
    assert blobs.is_sound(blob.sha256)
    implementation.damage(blob.sha256, b"0123456788")
    assert not blobs.is_sound(blob.sha256)
    assert blobs.discard_damaged(blob.sha256)
    assert not blobs.exists(blob.sha256)
    assert blobs.discard_damaged(blob.sha256)  # a missing blob counts as damaged
    assert put_bytes(blobs, b"0123456789") == blob
    assert not blobs.discard_damaged(blob.sha256)


def test_a_blob_that_was_cut_short_is_replaced_when_it_is_put_again(
    blobs: BlobStore, implementation: Implementation
) -> None:
    blob = put_bytes(blobs, b"0123456789")
    implementation.damage(blob.sha256, b"0123")
    assert not blobs.holds(blob)
    put_bytes(blobs, b"0123456789")
    assert blobs.is_sound(blob.sha256)


def test_many_at_once_put_the_same_blob(blobs: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(lambda _: put_bytes(blobs, b"same" * 50_000), range(32)))
    assert len(refs) == 1
    assert blobs.sweep((), (), long_after()) == 200_000


def test_scratch_files_become_blobs_or_go(blobs: BlobStore) -> None:
    with blobs.scratch_folder() as folder:
        assert list(folder.iterdir()) == []
        (folder / "keep").write_bytes(b"keep")
        (folder / "drop").write_bytes(b"drop")
        blob = blobs.put_file(folder / "keep", move=True)
    assert not folder.exists()
    assert content_of(blobs, blob) == b"keep"
    assert not blobs.exists(ref(b"drop").sha256)


# --- sweeping ------------------------------------------------------------------------------------------------


def test_a_swept_blob_is_gone_and_can_come_back(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"x")
    old = long_after()
    assert blobs.sweep({blob.sha256}, {blob.sha256}, old) == 0
    assert blobs.sweep((), (), old - GRACE_S) == 0
    assert blobs.sweep((), (), old) == 1
    assert not blobs.exists(blob.sha256)
    assert put_bytes(blobs, b"x") == blob
    assert blobs.exists(blob.sha256)


def test_what_is_known_to_be_over_goes_sooner(blobs: BlobStore) -> None:
    spent, unknown = put_bytes(blobs, b"spent"), put_bytes(blobs, b"unknown")
    assert blobs.sweep((), {spent.sha256}, time.time()) == 0
    assert blobs.sweep((), {spent.sha256}, time.time() + SPENT_GRACE_S + 1) == len(b"spent")
    assert blobs.exists(unknown.sha256)


def test_two_that_sweep_at_once_do_not_stumble(implementation: Implementation) -> None:
    blobs = [implementation.opened() for _ in range(4)]
    for number in range(200):
        put_bytes(blobs[0], bytes([number]))
    with ThreadPoolExecutor(4) as pool:
        freed = pool.map(lambda store: store.sweep((), (), long_after()), blobs)
    assert sum(freed) == 200


# --- files being received ------------------------------------------------------------------------------------


def test_several_processes_receive_a_file_in_pieces_in_turn(implementation: Implementation) -> None:
    content = bytes(range(256)) * 10_000
    at = 0
    for cut in (0, 1, 700_000, len(content)):
        blobs = implementation.opened()
        assert blobs.partial_bytes(KEY) == (at if cut else None)
        with closing(blobs.open_partial(KEY, ref(content))) as partial:
            assert b"".join(partial.received()) == content[:at]
            partial.append(content[at:cut])
            at = cut
        assert blobs.partial_keys() == [KEY]
    with closing(blobs.open_partial(KEY, ref(content))) as partial:
        with partial.on_disk() as path:
            assert path.read_bytes() == content
        partial.adopt()
    assert content_of(blobs, ref(content)) == content
    assert (blobs.partial_bytes(KEY), blobs.partial_keys()) == (None, [])


def test_of_two_that_receive_the_same_file_at_once_only_one_goes_on(implementation: Implementation) -> None:
    first, second = implementation.opened(), implementation.opened()
    with closing(first.open_partial(KEY, ref(b"0123"))) as partial:
        partial.append(b"01")
        with closing(second.open_partial(f"{KEY}1", ref(b"0123"))):
            pass
        try:
            later = second.open_partial(KEY, ref(b"0123"))
        except PartialInUse:
            with partial.on_disk():
                pass
        else:
            later.close()
            with pytest.raises(FileNotFoundError, match="discarded"):
                partial.adopt()
    assert not first.exists(ref(b"0123").sha256)


def test_what_is_received_lasts_but_for_what_is_not_saved_yet(implementation: Implementation) -> None:
    content = bytes(range(256)) * 10_000
    blobs, other = implementation.opened(), implementation.opened()
    with closing(blobs.open_partial(KEY, ref(content))) as partial:
        for start in range(0, len(content) - 100_000, 100_000):
            partial.append(content[start : start + 100_000])
            assert start + 100_000 - (other.partial_bytes(KEY) or 0) <= blobs.unsaved_bytes
    assert other.partial_bytes(KEY) == start + 100_000
    with closing(other.open_partial(KEY, ref(content))) as partial:
        assert b"".join(partial.received()) == content[: start + 100_000]


def test_a_blob_that_is_held_was_received_already_and_never_changes(blobs: BlobStore) -> None:
    blob = put_bytes(blobs, b"0123")
    with closing(blobs.open_partial(KEY, blob)) as partial:
        assert list(partial.received()) == [b"0123"]
        with pytest.raises(ValueError, match="more than the 4 bytes"):
            partial.append(b"4")
        partial.discard()
    assert content_of(blobs, blob) == b"0123"
    with closing(blobs.open_partial(KEY, blob)) as partial:
        assert blobs.sweep((), (), long_after()) == 4  # while the partial file is open
        partial.adopt()
    assert content_of(blobs, blob) == b"0123"
    assert blobs.partial_keys() == []


def test_what_another_began_under_the_key_is_not_adopted(implementation: Implementation) -> None:
    """The content of the other process was never checked."""
    blobs, other = implementation.opened(), implementation.opened()
    with closing(blobs.open_partial(KEY, ref(b"0123"))) as mine:
        mine.append(b"0123")
        other.discard_partial(KEY)
        for attempt in (mine.adopt, lambda: mine.on_disk().__enter__()):
            with pytest.raises(FileNotFoundError, match="discarded"):
                attempt()
        with closing(other.open_partial(KEY, ref(b"0123"))) as theirs:
            theirs.append(b"evil")
            with pytest.raises(FileNotFoundError, match="discarded"):
                mine.adopt()
            mine.discard()
            with theirs.on_disk():
                pass
    assert not blobs.exists(ref(b"0123").sha256)


def test_what_is_discarded_is_gone(blobs: BlobStore) -> None:
    with closing(blobs.open_partial(KEY, ref(b"0123"))) as partial:
        partial.append(b"01")
        partial.discard()
        partial.discard()
    blobs.discard_partial(KEY)
    assert (blobs.partial_bytes(KEY), blobs.partial_keys()) == (None, [])


@pytest.mark.parametrize("key", ["", "..", "../x", ".hidden", "a/b", "a b", "a\n", "a" * 256])
def test_keys_of_partial_files_lead_nowhere_else(blobs: BlobStore, key: str) -> None:
    for use in (blobs.partial_bytes, blobs.discard_partial, lambda key: blobs.open_partial(key, ref(b"0123"))):
        with pytest.raises(ValueError, match="is not a key"):
            use(key)


def test_partial_files_are_listed_by_key(blobs: BlobStore) -> None:
    for key in (KEY, "b"):
        blobs.open_partial(key, ref(b"0123")).close()
    assert blobs.partial_keys() == ["b", KEY]
    assert blobs.partial_keys("update+job-1+") == [KEY]
    assert blobs.partial_keys("update+job-2+") == []


# --- the store as a whole ------------------------------------------------------------------------------------


def test_blobs_are_bound_once(implementation: Implementation) -> None:
    blobs = implementation.opened()
    assert blobs.store_id() is None
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda store_id: implementation.opened().bind(store_id), "abcdefgh"))
    assert len(ids) == 1
    assert ids == {blobs.store_id()} == {implementation.opened().bind("later")}


def test_the_check_leaves_nothing(blobs: BlobStore) -> None:
    blobs.check()
    assert blobs.partial_keys() == []
    assert blobs.sweep((), (), long_after()) == 0
