"""The agent's side of the gRPC door: calls outlast a coordinator that is away, transfers go on where they broke."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_never, wait_random_exponential

from client_agent.cache import Cache
from client_agent.credential import Line
from client_agent.direct import Direct
from client_agent.errors import AgentError, AgentRefused, AgentUnknown, CoordinatorAway, InvalidExchange, RoundOver
from client_agent.progress import Progress
from client_agent.retries import BrokenTransfer, Patience, passes, within, words
from client_agent.window import Window
from fedgalore.process.address import targets
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.faults import Fault, reach
from fedgalore.version import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, __version__
from protos import KEEPALIVE_TIMEOUT_MS, MAX_RESPONSE_BYTES, PING_TIMEOUT_MS
from protos import federation_pb2 as pb
from protos.federation_pb2_grpc import FederationStub

CALL_TIMEOUT_S = 20.0
STALL_S = 120.0  # a transfer of which nothing arrives for this long is broken; one that moves is never cut
PATIENCE_S = 120.0
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # the default of two minutes would outlast a restart by far
]
_Status = grpc.StatusCode
TAKEN = _Status.ALREADY_EXISTS  # another agent serves under this client's name
_ROUND_OVER = {_Status.NOT_FOUND, _Status.FAILED_PRECONDITION, _Status.PERMISSION_DENIED}

T = TypeVar("T")


class _Door(NamedTuple):
    """Of a coordinator."""

    channel: grpc.aio.Channel
    stub: Any


class Transport:
    """One client's connection to its coordinator. Every method may be cancelled at any time.

    Calls raise `AgentUnknown`, `AgentRefused`, `RoundOver` and `InvalidExchange` for what the coordinator answers, and
    `CoordinatorAway` when it did not answer for `patience_s`; `register` and `next_task` wait as long as it takes.
    """

    def __init__(
        self,
        addresses: str,
        client: str,
        patience_s: float = PATIENCE_S,
        line: Line | None = None,
        direct_hosts: Collection[str] = (),
    ) -> None:
        """Connects at the first call.

        Args:
            addresses: as `fedgalore.process.address.targets` has them; any of them will do.
            direct_hosts: from which large downloads may come, past the coordinator.
        """
        self._named, self._addresses = addresses, deque(targets(addresses))
        self._client = client
        self._patience_s = patience_s
        self._line = line or Line()
        self._direct = Direct(direct_hosts, plaintext=self._line.channel is None)
        self._doors = {address: self._door(address) for address in self._addresses}
        self._away = False
        self._log = structlog.get_logger(__name__)

    async def close(self) -> None:
        """Ends the connection and whatever still runs on it."""
        for door in self._doors.values():
            await door.channel.close(None)

    def _door(self, address: str) -> _Door:
        """It connects at its first call."""
        if self._line.channel is None:
            # A proxy of the environment would take what is not encrypted off this machine.
            channel = grpc.aio.insecure_channel(address, options=[*_OPTIONS, ("grpc.enable_http_proxy", 0)])
        else:
            channel = grpc.aio.secure_channel(address, self._line.channel, options=_OPTIONS)
        return _Door(channel, FederationStub(channel))  # type: ignore[no-untyped-call]

    @property
    def _address(self) -> str:
        """Where calls go."""
        return self._addresses[0]

    @property
    def _stub(self) -> Any:
        return self._doors[self._address].stub

    async def register(self, datasets: Mapping[str, int]) -> pb.RegisterResponse:
        """Makes this client known with its data sets and their numbers of training examples.

        Where the coordinator does not know the client's key yet, the join token brings the key in.

        Raises:
            AgentRefused: no protocol version in common, a name or credential that the coordinator does not take, a name
                that another agent has, or no coordinator at that address.
        """
        request = pb.RegisterRequest(
            client=self._client,
            protocol_version=PROTOCOL_VERSION,
            software_version=__version__,
            datasets=dict(datasets),
            oldest_protocol_version=OLDEST_PROTOCOL_VERSION,
        )
        try:
            try:
                answer = await self._register(request)
            except AgentUnknown:
                if self._line.join_token is None:
                    raise
                await self._enrol(self._line.join_token)
                answer = await self._register(request)
        except (RoundOver, InvalidExchange, AgentUnknown) as error:
            raise AgentRefused(str(error)) from error
        return answer

    async def _register(self, request: pb.RegisterRequest) -> pb.RegisterResponse:
        return await self._for_ever(
            lambda: self._stub.Register(request, timeout=CALL_TIMEOUT_S, metadata=self._line.metadata)
        )

    async def _enrol(self, token: str) -> None:
        request = pb.EnrolRequest(client=self._client, join_token=token, key_sha256=self._line.key_sha256)
        metadata = self._line.instance_metadata
        await self._for_ever(lambda: self._stub.Enrol(request, timeout=CALL_TIMEOUT_S, metadata=metadata))

    async def next_task(self, wait_s: float) -> pb.Task | None:
        """The next task, or None when there was none for `wait_s` seconds.

        Raises:
            AgentRefused: the coordinator will not give this client any.
        """
        request = pb.NextTaskRequest(client=self._client, wait_s=wait_s)
        try:
            answer: pb.NextTaskResponse = await self._for_ever(
                lambda: self._stub.NextTask(request, timeout=wait_s + PATIENCE_S, metadata=self._line.metadata)
            )
        except (RoundOver, InvalidExchange) as error:
            raise AgentRefused(str(error)) from error
        return answer.task if answer.HasField("task") else None

    async def download(
        self, blob: BlobRef, cache: Cache, job_id: str, round_number: int, what: str | None = None
    ) -> Path:
        """The blob's file in the cache, fetched if it is not there; goes on where an earlier attempt ended.

        Args:
            what: it is, for the log.
        """
        if (path := cache.find(blob)) is not None:
            return path
        patience = Patience(self._patience_s)
        progress = Progress(what or f"blob {blob.sha256[:12]}", blob.size_bytes, patience)
        corrupt = 0

        async def attempt() -> Path:
            nonlocal corrupt
            await self._fill(cache.partial(blob), blob, job_id, round_number, progress)
            reach(Fault.DOWNLOAD_ARRIVED)
            try:
                path = await asyncio.to_thread(cache.adopt, blob)
            except InvalidExchange as error:
                self._direct.distrust()
                corrupt += 1
                if corrupt > 1:  # the same damage twice is no accident of the line
                    raise
                raise BrokenTransfer(str(error)) from error
            reach(Fault.DOWNLOAD_STORED)
            return path

        return await self._persist(attempt, patience)

    async def _fill(self, partial: Path, blob: BlobRef, job_id: str, round_number: int, progress: Progress) -> None:
        with partial.open("ab") as file:
            offset = file.tell()
            if offset >= blob.size_bytes:
                return
            request = pb.DownloadBlobRequest(
                client=self._client,
                sha256=blob.sha256,
                offset=offset,
                job_id=job_id,
                round=round_number,
                by_url=self._direct.is_open,
            )
            url = ""
            call = self._stub.DownloadBlob(request, metadata=self._line.metadata)
            try:
                while part := await within(STALL_S, call.read()):  # its end is false
                    if part.url:
                        if not request.by_url:  # each would lead to the next
                            raise InvalidExchange("the coordinator sent a URL that nobody asked for; upgrade it")
                        url = part.url
                        break
                    file.write(part.data)
                    reach(Fault.CHUNK_RECEIVED)
                    progress.reached(file.tell())
                    if file.tell() > blob.size_bytes:
                        return
            finally:
                call.cancel()
            if url:
                await self._direct.fetch(url, file, blob.size_bytes, progress)
            elif file.tell() < blob.size_bytes:
                raise BrokenTransfer("the download ended early")
        if url:  # the rest of it, where the bucket did not give all
            await self._fill(partial, blob, job_id, round_number, progress)

    async def submit(self, path: Path, blob: BlobRef, job_id: str, round_number: int) -> str:
        """Sends an update from where the coordinator's copy ends; returns its words on what became of it.

        Raises:
            RoundOver: the round closed without the update.
            InvalidExchange: the coordinator refuses it.
        """
        reference = pb.BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes)
        patience = Patience(self._patience_s)

        async def attempt() -> str:
            query = pb.QueryUploadRequest(client=self._client, job_id=job_id, round=round_number, blob=reference)
            held: pb.QueryUploadResponse = await self._stub.QueryUpload(
                query, timeout=CALL_TIMEOUT_S, metadata=self._line.metadata
            )
            if held.accepted:
                return "accepted before"
            header = pb.UpdateHeader(
                client=self._client, job_id=job_id, round=round_number, blob=reference, offset=held.received_bytes
            )
            call = self._stub.SubmitUpdate(metadata=self._line.metadata)
            try:
                return await _send(call, header, path, patience)
            finally:
                call.cancel()

        return await self._persist(attempt, patience)

    async def report_check(self, request: pb.ReportCheckRequest) -> None:
        """Delivers whether this site's data fit a job."""

        async def attempt() -> None:
            await self._stub.ReportCheck(request, timeout=CALL_TIMEOUT_S, metadata=self._line.metadata)

        await self._persist(attempt, Patience(self._patience_s))

    async def job_document(self, job_id: str) -> str:
        """The document, JSON, of a job on data that this client has.

        Raises:
            AgentError: the coordinator does not give it, or does not answer.
        """
        request = pb.ReadJobRequest(client=self._client, job_id=job_id)

        async def attempt() -> str:
            answer = await self._stub.ReadJob(request, timeout=CALL_TIMEOUT_S, metadata=self._line.metadata)
            return str(answer.spec_json)

        return await self._persist(attempt, Patience(self._patience_s))

    async def report(self, request: pb.ReportProgressRequest) -> pb.ReportProgressResponse:
        """Delivers an evaluation or a failure."""
        return await self._persist(lambda: self.heartbeat(request), Patience(self._patience_s))

    async def heartbeat(self, request: pb.ReportProgressRequest) -> pb.ReportProgressResponse:
        """One attempt at `ReportProgress`.

        Raises:
            grpc.aio.AioRpcError: whatever went wrong.
        """
        answer: pb.ReportProgressResponse = await self._stub.ReportProgress(
            request, timeout=CALL_TIMEOUT_S, metadata=self._line.metadata
        )
        return answer

    async def _for_ever(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await self._persist(attempt, stop_never)

    async def _persist(self, attempt: Callable[[], Awaitable[T]], stop: Callable[[RetryCallState], bool]) -> T:
        """The attempt's result, trying again after errors that pass by themselves."""

        async def once() -> T:
            address = self._address
            try:
                return await attempt()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                if passes(error) and address == self._address:  # and no other call has gone on to the next
                    self._addresses.rotate(-1)
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception(passes),
            wait=wait_random_exponential(multiplier=0.25, max=15),
            stop=stop,
            before_sleep=self._note_away,
            reraise=True,
        )
        try:
            result: T = await retrying(once)
        except (grpc.aio.AioRpcError, TimeoutError, BrokenTransfer) as error:
            raise self._translate(error) from error
        if self._away:
            self._away = False
            self._log.info("coordinator_back", coordinator=self._named)
        return result

    @property
    def is_away(self) -> bool:
        """Whether the coordinator did not answer when it was last called."""
        return self._away

    def _note_away(self, state: RetryCallState) -> None:
        if self._away:
            return  # logged once
        self._away = True
        error = state.outcome.exception() if state.outcome else None
        self._log.warning("coordinator_away", coordinator=self._named, reason=words(error))

    def _translate(self, error: grpc.aio.AioRpcError | TimeoutError | BrokenTransfer) -> AgentError:
        if passes(error) or not isinstance(error, grpc.aio.AioRpcError):
            return CoordinatorAway(f"no answer from {self._named} for {self._patience_s:.0f} s ({words(error)})")
        if error.code() is _Status.UNAUTHENTICATED:
            return AgentUnknown(words(error))
        if error.code() is TAKEN:
            return AgentRefused(words(error))
        if error.code() is _Status.UNIMPLEMENTED:
            return InvalidExchange(f"what listens at {self._address} does not speak this protocol ({words(error)})")
        return RoundOver(words(error)) if error.code() in _ROUND_OVER else InvalidExchange(words(error))


async def _send(call: Any, header: pb.UpdateHeader, path: Path, patience: Patience) -> str:
    """Sends the file from the header's offset on, as fast as it is acknowledged; the coordinator's last words.

    Raises:
        grpc.aio.AioRpcError, BrokenTransfer: the call has ended without them.
        TimeoutError: nothing came through for `STALL_S`.
    """
    await _put(call, pb.SubmitUpdateRequest(header=header))
    window = Window(header.offset)
    with path.open("rb") as file:
        file.seek(header.offset)
        done = False
        while True:
            while not done and (size := window.next_chunk):
                if chunk := file.read(size):
                    window.sent(len(chunk), time.monotonic())
                    await _put(call, pb.SubmitUpdateRequest(chunk=chunk))
                    reach(Fault.UPDATE_CHUNK_SENT)
                else:
                    done = True
                    await call.done_writing()
            answer = await within(STALL_S, call.read())
            if not answer:
                raise BrokenTransfer("the upload ended without an answer")
            if answer.outcome:
                return str(answer.reason)
            window.acknowledged(answer.received_bytes, time.monotonic())
            patience.reached(answer.received_bytes)


async def _put(call: Any, message: pb.SubmitUpdateRequest) -> None:
    """Sends a message. Where the call has ended, the next look at its answers says why."""
    with suppress(asyncio.InvalidStateError):
        await within(STALL_S, call.write(message))
