"""Updates on their way to disk: checked header first, hashed and written chunk by chunk, resumed where they broke.

The partial file is the only state, so an upload outlives connections and processes. It is open to one connection at a
time. An `Upload`'s calls block; asyncio code runs them in threads.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from coordinator.state.errors import InvalidUpdate, RoundClosed, UploadInProgress, WrongOffset
from coordinator.state.round_state import UpdateReceipt
from coordinator.store.blob_store import PartialInUse
from coordinator.store.partials import PartialKey
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.faults import Fault, reach
from protos.codec import LENGTH_BYTES, open_update

if TYPE_CHECKING:
    from coordinator.doors.grpc.update_check import Contents, Manifest
    from coordinator.store.blob_store import BlobStore, PartialFile


class Upload:
    """One connection's turn at one update: `open`, `write` each chunk, `finish`, and in any case `close`.

    The partial file stays until it is refused or finished.
    """

    def __init__(self, blobs: BlobStore, manifest: Manifest, blob: BlobRef) -> None:
        """Touches no disk.

        Raises:
            InvalidUpdate: no valid update has this size.
        """
        manifest.check_size(blob.size_bytes)
        self._blobs = blobs
        self._manifest = manifest
        self._blob = blob
        self._key = PartialKey(manifest.job_id, manifest.round, manifest.client, blob.sha256)
        self._partial: PartialFile | None = None
        self._digest = hashlib.sha256()
        self._head = bytearray()  # the file's header until it is complete
        self._contents: Contents | None = None
        self.received = 0

    def open(self, offset: int) -> None:
        """Takes the partial file up where it ends, which must be `offset`; what is there is hashed and checked anew.

        A file that became a blob, but was not reported, is taken up at its end. What the client had begun to send of
        another content in this round is gone: one client fills the disk with one update at most.

        Raises:
            InvalidUpdate: what is there is refused; the partial file is gone.
            UploadInProgress: another connection has this update in hand.
            WrongOffset: the file ends elsewhere.
        """
        try:
            self._partial = self._blobs.open_partial(str(self._key), self._blob)
        except PartialInUse as error:
            raise UploadInProgress(
                "this update is being received over another connection; ask with QueryUpload, then try again"
            ) from error
        for other in self._blobs.partial_keys():
            if other.startswith(self._key.place) and other != str(self._key):
                self._blobs.discard_partial(other)
        for block in self._partial.received():
            self._look_at(block, self._partial)
        if offset != self.received:
            raise WrongOffset(
                f"offset: {offset}; {self.received} bytes of this update are here, go on from there", self.received
            )
        reach(Fault.UPLOAD_OPENED)

    def write(self, chunk: bytes) -> None:
        """Checks, hashes and writes the next bytes; they outlive this process when it returns.

        Raises:
            InvalidUpdate: the header is refused or the file grows past its announced size; the partial file is gone.
        """
        partial = self._opened()
        self._look_at(chunk, partial)
        partial.append(chunk)
        reach(Fault.CHUNK_WRITTEN)

    def finish(self, now: float) -> UpdateReceipt:
        """Checks hash and values and moves the file, synced, into the blob store.

        Raises:
            WrongOffset: bytes are missing; the partial file stays.
            InvalidUpdate: another hash than announced, NaN or infinite values, negative second moments; the partial
                file is gone.
            RoundClosed: the partial file was cleaned away meanwhile.
        """
        partial, size = self._opened(), self._blob.size_bytes
        if self.received < size or self._contents is None:
            raise WrongOffset(f"the stream ended after {self.received} of {size} bytes; send the rest", self.received)
        reach(Fault.UPLOAD_ARRIVED)
        try:
            if self._digest.hexdigest() != self._blob.sha256:
                self._blobs.discard_damaged(self._blob.sha256)  # if the bytes came from there
                raise InvalidUpdate(
                    "blob.sha256: the bytes received have another hash; send the file again from offset 0"
                )
            with partial.on_disk() as path:
                self._manifest.check_values(open_update(path))
            partial.adopt()
        except InvalidUpdate:
            partial.discard()
            raise
        except FileNotFoundError as error:
            raise RoundClosed("the round closed while its update was on its way; ask for the next task") from error
        reach(Fault.UPLOAD_STORED)
        return UpdateReceipt(self._blob, self._contents.num_examples, self._contents.metrics, now)

    def close(self) -> None:
        """Lets go of the file; does nothing when it is not open."""
        if self._partial is not None:
            self._partial.close()

    def _opened(self) -> PartialFile:
        if self._partial is None:
            raise RuntimeError("open() comes first")
        return self._partial

    def _look_at(self, chunk: bytes, partial: PartialFile) -> None:
        """What is done with bytes, new or already on disk, except to write them."""
        size = self._blob.size_bytes
        try:
            if self.received + len(chunk) > size:
                raise InvalidUpdate(f"more than the announced {size} bytes arrived; announce the file's true size")
            if self._contents is None:
                self._look_at_header(chunk)
        except InvalidUpdate:
            partial.discard()
            raise
        self._digest.update(chunk)
        self.received += len(chunk)

    def _look_at_header(self, chunk: bytes) -> None:
        self._head += chunk
        if len(self._head) < LENGTH_BYTES:
            return
        needed = self._manifest.header_bytes(bytes(self._head[:LENGTH_BYTES]))
        if len(self._head) < needed:
            return
        self._contents = self._manifest.check_header(bytes(self._head[:needed]), self._blob.size_bytes)
        self._head.clear()
