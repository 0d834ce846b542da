"""The blob store in a bucket: which objects there are, who deletes while others put, and what each fault is called."""

from __future__ import annotations

import ssl
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from coordinator.store import bucket_sweeps
from coordinator.store.blob_store import GRACE_S, BlobsAway
from coordinator.store.bucket import PROBE_S, Bucket
from coordinator.store.bucket_blob_store import BucketBlobStore
from coordinator.store.bucket_sweeps import Sweeps
from fedgalore.process.blob_ref import BlobRef
from fedgalore_cli.main import app
from tests.builders import content_of, put_bytes
from tests.s3_server import S3Server

KEY = "update+job-1+3+site-a+00"
CACHE_BYTES = 2**20


@pytest.fixture
def url(s3_server: S3Server) -> str:
    return f"s3://blobs/{uuid.uuid4().hex}/a/b"


@pytest.fixture
def bucket(url: str) -> Bucket:
    return Bucket(url)


@pytest.fixture
def blobs(url: str, tmp_path: Path) -> BucketBlobStore:
    return BucketBlobStore(url, tmp_path / "machine", CACHE_BYTES, 2**18)


def objects(bucket: Bucket) -> list[str]:
    return sorted(path for folder in ("sha256", "used", "partial", "check") for path, *_ in bucket.list(folder))


@pytest.mark.bucket
def test_a_blob_is_one_object_that_other_programs_can_read(blobs: BucketBlobStore, bucket: Bucket) -> None:
    blob = put_bytes(blobs, b"weights")
    place = f"sha256/{blob.sha256[:2]}/{blob.sha256}"
    assert objects(bucket) == [place]
    assert bucket.get(place) == b"weights"
    put_bytes(blobs, b"weights")
    assert objects(bucket) == [place, f"used/{blob.sha256}"]
    assert blobs.sweep((), (), time.time() + GRACE_S + 2) == len(b"weights")
    assert objects(bucket) == []


@pytest.mark.bucket
def test_a_file_of_many_parts_comes_back_whole(blobs: BucketBlobStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * (3 * 2**15 + 1)  # 24 MiB and some, more than three parts
    (tmp_path / "file").write_bytes(content)
    blob = blobs.put_file(tmp_path / "file")
    with closing(blobs.open(blob.sha256)) as file:
        assert file.path is None  # the cache is too small for it
        assert file.read(2**23 - 3, 6) == content[2**23 - 3 : 2**23 + 3]
    assert blobs.is_sound(blob.sha256)
    with blobs.on_disk(blob.sha256) as path:
        assert path.read_bytes() == content


@pytest.mark.bucket
def test_an_update_that_is_received_leaves_one_object(blobs: BucketBlobStore, bucket: Bucket) -> None:
    content = bytes(range(256)) * 4000
    blob = BlobRef("0" * 64, len(content))  # nobody has checked its hash here
    with closing(blobs.open_partial(KEY, blob)) as partial:
        for start in range(0, len(content), 2**16):
            partial.append(content[start : start + 2**16])
        assert len(objects(bucket)) == 4  # who receives it, and three whole pieces; the rest is about to be stored
        partial.adopt()
    assert objects(bucket) == [f"sha256/00/{blob.sha256}"]


@pytest.mark.bucket
def test_a_large_blob_that_is_deleted_while_it_is_read_says_so(blobs: BucketBlobStore) -> None:
    blob = put_bytes(blobs, bytes(CACHE_BYTES))
    with closing(blobs.open(blob.sha256)) as file:
        blobs.sweep((), (), time.time() + GRACE_S + 2)
        with pytest.raises(OSError, match="was deleted while it was read"):
            file.read(0, 1)


@pytest.mark.bucket
def test_a_file_that_changes_while_it_is_stored_is_no_blob(
    blobs: BucketBlobStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    put = Bucket.put

    def changed(self: Bucket, path: str, content: bytes | Path, *, new: bool = False) -> str | None:
        if path.startswith("sha256/"):
            file.write_bytes(b"after!")
        return put(self, path, content, new=new)

    monkeypatch.setattr(Bucket, "put", changed)
    with pytest.raises(OSError, match="was written to while it was stored"):
        blobs.put_file(file)
    assert objects(bucket) == []


# --- sweeps and those who put --------------------------------------------------------------------------------


@pytest.mark.bucket
def test_who_puts_a_blob_during_a_sweep_waits_and_finds_it_deleted(
    blobs: BucketBlobStore, bucket: Bucket, url: str
) -> None:
    """The sweep had looked at its age before."""
    blob = put_bytes(blobs, b"0123")
    with ThreadPoolExecutor(1) as pool:
        with Sweeps(bucket).turn() as turn:
            assert turn is not None
            putting = pool.submit(put_bytes, blobs, b"0123")
            time.sleep(0.5)
            assert not putting.done()
            bucket.delete([f"sha256/{blob.sha256[:2]}/{blob.sha256}"])
        assert putting.result(30) == blob
    assert content_of(blobs, blob.sha256) == b"0123"


@pytest.mark.bucket
def test_what_was_put_again_lately_stays(blobs: BucketBlobStore, bucket: Bucket) -> None:
    blob = put_bytes(blobs, b"0123")
    first = bucket.head(f"sha256/{blob.sha256[:2]}/{blob.sha256}")
    assert first is not None
    time.sleep(max(0.0, first.modified + 3 - time.time()))  # times of buckets are whole seconds
    put_bytes(blobs, b"0123")
    assert blobs.sweep((), (), first.modified + GRACE_S + 2) == 0
    assert blobs.sweep((), (), time.time() + GRACE_S + 2) == 4


@pytest.mark.bucket
def test_a_sweep_deletes_only_what_is_there(blobs: BucketBlobStore, bucket: Bucket, url: str) -> None:
    """Storages of Google and Azure end a call at the first path at which nothing is."""

    class Strict(Bucket):
        def delete(self, paths: Sequence[str]) -> None:
            assert [path for path in paths if self.head(path) is None] == []
            super().delete(paths)

    for content in (b"0123", b"4567", b"0123"):  # the first one has a mark of use
        put_bytes(blobs, content)
    assert Sweeps(Strict(url)).delete(bucket, lambda name, age_s: True, 0.0) == 8
    assert objects(bucket) == []


@pytest.mark.bucket
def test_one_sweeps_at_a_time(bucket: Bucket, url: str) -> None:
    with Sweeps(bucket).turn() as first, Sweeps(Bucket(url)).turn() as second:
        assert first is not None and abs(first.now - time.time()) < 5
        assert second is None
    with Sweeps(Bucket(url)).turn() as third:
        assert third is not None


@pytest.mark.bucket
def test_the_mark_of_a_sweep_that_died_is_taken_away(
    blobs: BucketBlobStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_sweeps, "STALE_S", 1.0)
    bucket.put("sweeping", b"somebody who died")
    put_bytes(blobs, b"0123")
    assert bucket.head("sweeping") is None
    bucket.put("sweeping", b"another")
    old = time.time() + GRACE_S + 2
    assert blobs.sweep((), (), old) == 0
    time.sleep(1.1)
    assert blobs.sweep((), (), old) == 0  # it takes the mark away
    assert blobs.sweep((), (), old) == 4


@pytest.mark.bucket
def test_a_sweep_whose_time_is_up_deletes_nothing(
    blobs: BucketBlobStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bytes(blobs, b"0123")
    monkeypatch.setattr(bucket_sweeps, "SWEEP_S", -1.0)
    assert blobs.sweep((), (), time.time() + GRACE_S + 2) == 0
    assert len(objects(bucket)) == 1


# --- faults --------------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: str = "", pki: Path | None = None) -> Iterator[str]:
    """A server that answers everything in the same way, over TLS with the certificates of `pki`; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    for verb in ("GET", "PUT", "HEAD", "DELETE", "POST"):
        setattr(Handler, f"do_{verb}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if pki is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pki / "coordinator.pem", pki / "coordinator.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # of handshakes that are broken off
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def problem(code: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'


@pytest.mark.bucket
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, problem("NoSuchBucket"), "there is no such bucket: create it"),
        (403, problem("AccessDenied"), "the credentials are refused"),
        (403, problem("RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        (503, problem("SlowDown"), "does not answer, or cannot now"),
        (200, "", "overwrites an object although the write asks it not to"),
    ],
)
def test_a_bucket_that_cannot_be_used_says_why(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, status: int, body: str, words: str
) -> None:
    with answering(status, body) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        begun = time.monotonic()
        with pytest.raises(BlobsAway, match=f"s3://blobs/x: .*{words}"):
            Bucket("s3://blobs/x", PROBE_S).check()
        assert time.monotonic() - begun < 3 * PROBE_S


@pytest.mark.bucket
def test_a_storage_may_have_a_ca_of_its_own(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert CliRunner().invoke(app, ["certs", "--dir", str(tmp_path / "pki"), "--host", "127.0.0.1"]).exit_code == 0
    with answering(404, problem("NoSuchBucket"), tmp_path / "pki") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address.replace("http:", "https:"))
        with pytest.raises(BlobsAway, match="does not answer"):
            Bucket("s3://blobs/x", PROBE_S).check()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "pki" / "ca.pem"))
        with pytest.raises(BlobsAway, match="there is no such bucket"):
            Bucket("s3://blobs/x", PROBE_S).check()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(BlobsAway, match="AWS_CA_BUNDLE: .* cannot be read"):
        Bucket("s3://blobs/x")


@pytest.mark.bucket
def test_a_missing_bucket_a_dead_server_and_missing_credentials_are_told_apart(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BlobsAway, match="there is no such bucket"):
        Bucket("s3://no-such-bucket/x", PROBE_S).check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BlobsAway, match="does not answer"):
        Bucket("s3://blobs/x", PROBE_S).check()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BlobsAway, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        Bucket("s3://blobs/x", PROBE_S).check()
    with pytest.raises(BlobsAway, match="Account must be specified"):
        Bucket("az://account/blobs")


@pytest.mark.bucket
@pytest.mark.parametrize("endpoint", ["", "storage:9000", "https://", "ftp://storage", "http://key@storage"])
def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BlobsAway, match="AWS_ENDPOINT_URL is .* no address; write it such as"):
        Bucket("s3://blobs/x")


@pytest.mark.bucket
def test_a_bucket_that_is_away_is_no_missing_blob(
    blobs: BucketBlobStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = put_bytes(blobs, b"0123")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("coordinator.store.bucket.PATIENCE_S", 0.5)
    monkeypatch.setattr("coordinator.store.bucket_blob_store.Bucket", lambda url, patience_s=0.5: Bucket(url, 0.5))
    away = BucketBlobStore(url, tmp_path / "another", CACHE_BYTES)
    for call in (
        lambda: away.exists(blob.sha256),
        lambda: away.holds(blob),
        lambda: away.is_sound(blob.sha256),
        lambda: away.discard_damaged(blob.sha256),
        lambda: away.open(blob.sha256),
        lambda: away.read(blob.sha256, 0, 1),
        lambda: away.partial_bytes(KEY),
        lambda: away.held(()),
        lambda: away.store_id(),
        lambda: away.bind("ours"),
    ):
        with pytest.raises(BlobsAway):
            call()
    assert blobs.read(blob.sha256, 0, 4) == b"0123"


def test_a_machine_without_the_library_hears_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(BlobsAway, match=r"pip install 'fedgalore\[bucket\]' brings it"):
        Bucket("s3://blobs/x")


@pytest.mark.bucket
def test_a_signed_url_gives_any_range_of_a_blob_to_anybody(blobs: BucketBlobStore) -> None:
    blob = put_bytes(blobs, b"0123456789")
    url = blobs.url(blob.sha256, 60)
    assert url is not None
    answer = httpx.get(url, headers={"Range": "bytes=4-"}, trust_env=False)
    assert (answer.status_code, answer.content) == (206, b"456789")
    assert httpx.get(url.partition("?")[0], trust_env=False).status_code == 403
