"""Uploads of updates: the header is checked first, then each chunk is hashed and written; a broken upload resumes.

The partial file is the only state, so that an upload outlives connections and processes. A single connection at a time
has the partial file. Calls of an `Upload` block; asyncio code runs them in threads.
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
    """A connection's turn at an update: `open`, `write` each chunk, `finish`, and in any case `close`.

    The partial file stays until the update is refused or finished.
    """

    def __init__(self, blobs: BlobStore, manifest: Manifest, blob: BlobRef) -> None:
        """Does not touch the disk.

        Raises:
            InvalidUpdate: no valid update has this size.
        """
        manifest.check_size(blob.size_bytes)
        self._blobs = blobs
        self._manifest = manifest
        self._blob = blob
        self._key = PartialKey(manifest.job_id, manifest.version, manifest.client, blob.sha256)
        self._partial: PartialFile | None = None
        self._digest = hashlib.sha256()
        self._head = bytearray()  # the file's header until it is complete
        self._contents: Contents | None = None
        self.received = 0
        self._resumed = False  # some of the bytes lay here before this call
        self._finishing = False

    def open(self, offset: int) -> None:
        """Opens the partial file, which must end at `offset`. The bytes in it are hashed and checked again.

        If the update is a blob already, because an earlier call ended before it had reported it to the round, all bytes
        count as received. Partial files of this client with other content are deleted, so that a client fills the disk
        with at most one update a round.

        Raises:
            InvalidUpdate: the update is a blob already, and not one that this client can send.
            UploadInProgress: another connection has this partial file.
            WrongOffset: the partial file ends elsewhere, or was damaged on disk and is deleted.
        """
        try:
            self._partial = self._blobs.open_partial(str(self._key), self._blob)
        except PartialInUse as error:
            raise UploadInProgress(
                "this update is being received over another connection; ask with QueryUpload, then try again"
            ) from error
        for other in self._blobs.partial_keys(self._key.place):
            if other != str(self._key):
                self._blobs.discard_partial(other)
        try:
            for block in self._partial.received():
                self._look_at(block, self._partial)
        except InvalidUpdate as error:
            if self._blobs.holds(self._blob):  # with this very content, which was checked
                raise
            raise _from_the_start(f"what was here of it is damaged ({error})") from error
        self._resumed = self.received > 0
        if offset != self.received:
            raise WrongOffset(
                f"offset: {offset}; {self.received} bytes of this update are here, go on from there", self.received
            )
        reach(Fault.UPLOAD_OPENED)

    def write(self, *chunks: bytes) -> None:
        """Checks, hashes and writes the next bytes.

        Raises:
            InvalidUpdate: the header is refused, or more bytes than announced have come; the partial file is deleted.
            RoundClosed: the partial file was deleted meanwhile; its bytes would be of use to nobody.
        """
        partial = self._opened()
        self.check_in_place()
        for chunk in chunks:
            self._look_at(chunk, partial)
            partial.append(chunk)
            reach(Fault.CHUNK_WRITTEN)

    def check_in_place(self) -> None:
        """Raises `RoundClosed` where the partial file, once open, was deleted: another upload has taken its place, or
        nobody waits for it any more."""
        if self._partial is not None and not self._finishing and not self._partial.is_in_place():
            raise RoundClosed("this update's file was deleted while it was on its way; ask for the next task")

    def finish(self) -> UpdateReceipt:
        """Checks hash and values, and turns the partial file into a blob.

        Raises:
            WrongOffset: bytes are missing; the partial file stays. Or the hash is not the announced hash, and some of
                the bytes lay here before this call; the partial file is deleted.
            InvalidUpdate: the hash of what came in this call is not the announced hash, the header does not end, or a
                value is NaN, infinite, or a negative second moment; the partial file is deleted.
            RoundClosed: the partial file was deleted meanwhile.
        """
        partial, size, self._finishing = self._opened(), self._blob.size_bytes, True
        if self.received == size and self._contents is None:
            partial.discard()
            raise InvalidUpdate(f"header: claims more than the {size} bytes that the update has; write the file anew")
        if self.received < size or self._contents is None:
            raise WrongOffset(f"the stream ended after {self.received} of {size} bytes; send the rest", self.received)
        reach(Fault.UPLOAD_ARRIVED)
        try:
            if self._digest.hexdigest() != self._blob.sha256:
                self._blobs.discard_damaged(self._blob.sha256)  # the bytes may come from there
                if self._resumed:  # or from a partial file that was damaged here
                    partial.discard()
                    raise _from_the_start("the bytes received have another hash")
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
        return UpdateReceipt(self._blob, self._contents.num_examples, self._contents.metrics)

    def close(self) -> None:
        """Lets go of the partial file, if it is open."""
        self._finishing = True
        if self._partial is not None:
            self._partial.close()

    def _opened(self) -> PartialFile:
        if self._partial is None:
            raise RuntimeError("open() comes first")
        return self._partial

    def _look_at(self, chunk: bytes, partial: PartialFile) -> None:
        """Checks and hashes bytes, be they new or on disk already."""
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


def _from_the_start(why: str) -> WrongOffset:
    """What an agent hears whose update may be good all the same."""
    return WrongOffset(f"offset: {why}; send the update from the start", 0)
