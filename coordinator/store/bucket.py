"""A bucket of S3 or of what speaks it, of Google or of Azure, by obstore: a few calls, which say in words what fails.

All calls block, and may be made by several threads at once. A write is atomic, and who reads after it finds it.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from coordinator.store.blob_store import BlobsAway

PART_BYTES = 2**23  # of a file that is sent in parts; few enough are in memory at a time
MOST_PARTS = 9000  # S3 takes 10,000
AT_ONCE = 4
PATIENCE_S = 30.0  # of calls on whose end somebody waits with work
PROBE_S = 2.0  # of looks whether the bucket answers
CALL_S = 60.0  # that one of them may take, which moves a part at most
BULK = 1000  # objects that S3 deletes by one call
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_REMEDIES = (  # what an answer or an error holds, and what it means
    ("NoSuchBucket", "there is no such bucket: create it, or name another"),
    ("NoSuchContainer", "there is no such container: create it, or name another"),
    ("ContainerNotFound", "there is no such container: create it, or name another"),
    ("RequestTimeTooSkewed", "the clock of this machine is wrong: set it"),
    ("169.254.169.254", "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give it a role"),
    ("metadata.google", "there are no credentials: set GOOGLE_APPLICATION_CREDENTIALS, or give it a service account"),
    ("403 Forbidden", "the credentials are refused: give some that may read, write, list and delete there"),
    ("401 Unauthorized", "the credentials are refused: give some that may read, write, list and delete there"),
)


class ObjectMeta(NamedTuple):
    """An object without its content. `modified`: seconds since the epoch by the bucket's clock."""

    path: str
    size_bytes: int
    modified: float
    tag: str  # another one after each write of other content


class Bucket:
    """The objects below a prefix of a bucket. Every call raises `BlobsAway` where it does not answer, or refuses."""

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        """Asks nothing yet. Credentials and endpoint come from the variables that the storage's users know.

        Args:
            url: such as `s3://bucket/prefix`, `gs://bucket/prefix` or `az://account/container/prefix`.
            patience_s: for so long a call is tried again that fails in a way which passes.

        Raises:
            BlobsAway: obstore is not installed, or the settings of the storage do not fit.
        """
        self.url = url
        self._keeps_what_is_there = False  # known: it refuses to overwrite what must be new
        try:
            import obstore
            from obstore import store as stores
        except ModuleNotFoundError as error:
            raise BlobsAway(f"a bucket needs {error.name}; pip install 'fedgalore[bucket]' brings it") from error
        self._obstore: Any = obstore
        from_url: Any = stores.from_url  # its types want to know the storage beforehand
        plain = url.startswith("s3://") and _endpoint().startswith("http://")
        call_s = CALL_S if patience_s >= PATIENCE_S else patience_s
        options: dict[str, Any] = {"connect_timeout": "5s", "timeout": f"{call_s:.0f}s", "allow_http": plain}
        if bundle := os.environ.get("AWS_CA_BUNDLE"):  # as other users of the storage have it; beside the public ones
            options["root_certificate"] = _certificates(Path(bundle))
        retries: Any = {"max_retries": 8, "retry_timeout": timedelta(seconds=patience_s)}
        with self._told():
            self._store: Any = from_url(url, client_options=options, retry_config=retries)

    def head(self, path: str) -> ObjectMeta | None:
        """What is at the path; None: nothing."""
        with self._told():
            try:
                return _meta(self._obstore.head(self._store, path))
            except FileNotFoundError:
                return None

    def get(self, path: str) -> bytes | None:
        """All of a small object; None: nothing is there."""
        with self._told():
            try:
                return bytes(self._obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes, at least one, from `offset` on, which is before the end.

        Raises:
            FileNotFoundError: nothing is there.
        """
        with self._told():
            return bytes(self._obstore.get_range(self._store, path, start=offset, length=length))

    def blocks(self, path: str, size_bytes: int) -> Iterator[bytes]:
        """An object's bytes in their order; the next ones are on their way meanwhile.

        Raises:
            FileNotFoundError: nothing is there.
        """
        offsets = range(0, size_bytes, PART_BYTES)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(offsets), AT_ONCE):
                some = offsets[start : start + AT_ONCE]
                yield from pool.map(lambda at: self.read(path, at, min(PART_BYTES, size_bytes - at)), some)

    def put(self, path: str, content: bytes | Path, *, new: bool = False) -> str | None:
        """Writes an object, a file in parts. Returns its tag; None where it must be `new` and is there already."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        with self._told(missing_is_away=True):
            try:
                answer = self._obstore.put(
                    self._store,
                    path,
                    content,
                    mode="create" if new else "overwrite",
                    chunk_size=max(PART_BYTES, -(-size // MOST_PARTS)),
                    max_concurrency=AT_ONCE,
                )
            except self._obstore.exceptions.AlreadyExistsError:
                return None
        return str(answer["e_tag"])

    def delete(self, paths: Sequence[str]) -> None:
        """Deletes objects; those that are gone already do not matter."""
        for start in range(0, len(paths), BULK):
            with self._told():
                try:
                    self._obstore.delete(self._store, list(paths[start : start + BULK]))
                except FileNotFoundError:
                    continue

    def list(self, folder: str, after: str | None = None) -> Iterator[ObjectMeta]:
        """All objects below a folder, by path; from the first path on that is greater than `after`."""
        with self._told():
            for some in self._obstore.list(self._store, folder, offset=after, chunk_size=BULK):
                yield from map(_meta, some)

    def sign(self, path: str, valid_s: float) -> str | None:
        """A URL by which anybody may read an object for some time; None where the storage has none."""
        sign: Callable[..., str] = self._obstore.sign
        try:
            with self._told():
                return sign(self._store, "GET", path, timedelta(seconds=valid_s))
        except (TypeError, ValueError, BlobsAway):
            return None

    def check(self) -> None:
        """Writes and deletes a byte.

        Raises:
            BlobsAway: it cannot be written, or overwrites objects although it is asked not to.
        """
        path = f"check/{uuid.uuid4().hex}"
        self.put(path, b"\0")
        if not self._keeps_what_is_there and self.put(path, b"\1", new=True) is not None:
            raise BlobsAway(
                f"{self.url}: it overwrites an object although the write asks it not to (If-None-Match), so that two "
                "coordinators could take it for theirs; take a storage that knows conditional writes"
            )
        self._keeps_what_is_there = True
        self.delete([path])

    @contextmanager
    def _told(self, missing_is_away: bool = False) -> Iterator[None]:
        """Errors of the library as `BlobsAway`, with the remedy where it is known."""
        missing: tuple[type[Exception], ...] = (FileNotFoundError,) if missing_is_away else ()
        try:
            yield
        except (self._obstore.exceptions.BaseError, *missing) as error:
            if isinstance(error, self._obstore.exceptions.AlreadyExistsError):
                raise
            text = str(error)
            remedy = next((remedy for mark, remedy in _REMEDIES if mark in text), "it does not answer, or cannot now")
            first = text.partition("\n")[0][:300]
            raise BlobsAway(f"{self.url}: {remedy} ({first})") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the library's Rust, which no `except Exception` sees
                raise
            raise BlobsAway(f"{self.url}: obstore has a fault with these settings ({error})") from error


class ObjectRanges:
    """A `RangeReader` of an object, which stays in the bucket."""

    path: Path | None = None

    def __init__(self, bucket: Bucket, meta: ObjectMeta) -> None:
        self.size_bytes = meta.size_bytes
        self._bucket, self._place, self._is_closed = bucket, meta.path, False

    def read(self, offset: int, length: int) -> bytes:
        if self._is_closed:
            raise ValueError("the object is closed")
        length = min(length, self.size_bytes - offset)
        if length <= 0:
            return b""
        try:
            return self._bucket.read(self._place, offset, length)
        except FileNotFoundError as error:
            raise OSError(f"{self._place} was deleted while it was read") from error

    def close(self) -> None:
        self._is_closed = True


def _certificates(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BlobsAway(f"AWS_CA_BUNDLE: {path} cannot be read ({error}); name a file of certificates, PEM") from error


def _endpoint() -> str:
    """The address of a storage that is not Amazon's; an empty text where none is named.

    Raises:
        BlobsAway: it is no address; the library would not survive it.
    """
    name = next((name for name in _ENDPOINTS if name in os.environ), None)
    if name is None:
        return ""
    endpoint = os.environ[name]
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", endpoint):
        raise BlobsAway(
            f"{name} is {endpoint[:100]!r}, which is no address; write it such as https://storage:9000, or unset it"
        )
    return endpoint


def _meta(told: Any) -> ObjectMeta:
    return ObjectMeta(told["path"], told["size"], told["last_modified"].timestamp(), str(told["e_tag"]))
