"""The agents' door: translates messages for the engine, streams files in and out, decides nothing itself."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.doors.grpc import messages
from coordinator.doors.grpc.ahead import ReadAhead, chunks
from coordinator.doors.grpc.calls import written
from coordinator.doors.grpc.guard import (
    check_certificate,
    code,
    finite,
    header,
    in_round,
    in_thread,
    instance,
    name,
    positive,
    prose,
    sha256,
    stage,
    text,
)
from coordinator.doors.grpc.metered import metered
from coordinator.doors.grpc.pieces import next_piece
from coordinator.doors.grpc.uploads import Upload
from coordinator.doors.watched import watched
from coordinator.state.admission import Duplicate
from coordinator.state.errors import (
    AgentNotFound,
    BlobLost,
    BlobNotFound,
    InvalidRequest,
    JobNotFound,
    NotAuthenticated,
    NotParticipant,
    RoundClosed,
    RoundNotFound,
    WrongOffset,
)
from coordinator.state.limits import MAX_TEXT
from coordinator.store.credentials import bearer
from coordinator.store.partials import PartialKey, received_bytes
from fedgalore.process.faults import Fault, reach
from fedgalore.process.plain import plain
from fedgalore.version import __version__
from protos import CHUNK_BYTES, PIECE_BYTES, federation_pb2_grpc
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Literal

    from coordinator.doors.doorkeeper import Doorkeeper
    from coordinator.doors.grpc.calls import Calls
    from coordinator.doors.grpc.guard import Context
    from coordinator.engine.agent_calls import AgentCalls
    from coordinator.state.job_state import Job
    from coordinator.state.round_state import UpdateReceipt
    from coordinator.store.blob_store import BlobStore

LONGEST_POLL_S = 60.0
DIRECT_BYTES = 2**23  # from which on a download may come from the bucket itself
URL_VALID_S = 900.0
_TASK_GONE = (JobNotFound, RoundNotFound, RoundClosed, NotParticipant)


class Federation(federation_pb2_grpc.FederationServicer):
    """The service of `federation.proto`; each method's behaviour stands there."""

    def __init__(
        self, agents: AgentCalls, blobs: BlobStore, doorkeeper: Doorkeeper, calls: Calls, direct_downloads: bool = False
    ) -> None:
        self._direct_downloads = direct_downloads
        self._agents = agents
        self._calls = calls
        self._blobs = blobs
        self._doorkeeper = doorkeeper
        self._ahead = ReadAhead()
        self.stopping = asyncio.Event()

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolResponse:
        client = name("client", request.client)
        check_certificate(context, client)
        token, digest = text("join_token", request.join_token), sha256("key_sha256", request.key_sha256)
        await self._agents.check_free(client, instance(context))  # its key would be void, and it with the key
        await self._doorkeeper.enrol(client, token, digest)
        self._calls.account(context).client = client
        return pb.EnrolResponse()

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        client = await self._caller(request, context)
        version = positive("protocol_version", request.protocol_version)
        software = text("software_version", request.software_version)
        common = await self._agents.register(
            client, version, software, dict(request.datasets), instance(context), request.oldest_protocol_version
        )
        try:
            await self._still_caller(request, context)
        except NotAuthenticated:  # revoked meanwhile, and nobody is to wait for it
            with suppress(AgentNotFound):
                await self._agents.withdraw(client)
            raise
        presence_s = self._agents.presence_s
        return pb.RegisterResponse(software_version=__version__, presence_s=presence_s, protocol_version=common)

    async def NextTask(self, request: pb.NextTaskRequest, context: Context) -> pb.NextTaskResponse:
        client = await self._caller(request, context)
        wait_s = min(max(finite("wait_s", request.wait_s), 0.0), LONGEST_POLL_S)
        asked = asyncio.ensure_future(self._agents.next_task(client, wait_s, instance(context)))
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait([asked, stopping], return_when=asyncio.FIRST_COMPLETED)
            task = asked.result() if asked.done() else None
            if task:
                await self._caller(request, context)  # who was revoked while it waited gets no work
        finally:
            asked.cancel()
            stopping.cancel()
            await asyncio.gather(asked, stopping, return_exceptions=True)
        return pb.NextTaskResponse(task=messages.task(task, request.client) if task else None)

    async def DownloadBlob(self, request: pb.DownloadBlobRequest, context: Context) -> None:
        client = await self._caller(request, context)
        wanted = sha256("sha256", request.sha256)
        job_id, number = in_round(request)
        job = await self._agents.check_open(job_id, number, client, instance(context))
        size = messages.named_blobs(job).get(wanted)
        if size is None:
            raise BlobNotFound(f"no task of {client} in job {job_id} names blob {wanted}; fetch what your task names")
        if request.offset > size:
            raise WrongOffset(
                f"offset: is {request.offset}, but the blob has {size} bytes; start there or before", size
            )
        agent = instance(context)

        async def check() -> None:
            await self._agents.check_open(job_id, number, await self._caller(request, context), agent)

        await watched(self._send(request, job, size, client, context), check)

    async def _send(self, request: pb.DownloadBlobRequest, job: Job, size: int, client: str, context: Context) -> None:
        offset, piece_bytes, account = request.offset, PIECE_BYTES, self._calls.account(context)
        async with self._metered(request, client, "down") as passed:
            if (url := await self._url(request, size - offset)) is not None:
                await written(context, pb.DownloadBlobResponse(url=url))
                passed(size - offset)
                account.sent_bytes += size - offset
                return
            while offset < size:
                data = await in_thread(self._read, request.sha256, offset)
                if not data:
                    raise BlobLost(messages.lost(job, request.sha256))
                begun = time.monotonic()
                for start in range(0, len(data), piece_bytes):
                    piece = data[start : start + piece_bytes]
                    await written(context, pb.DownloadBlobResponse(data=piece))
                    offset += len(piece)
                    passed(len(piece))
                    account.sent_bytes += len(piece)
                piece_bytes = next_piece(piece_bytes, time.monotonic() - begun)
                reach(Fault.CHUNK_SENT)

    async def _url(self, request: pb.DownloadBlobRequest, missing_bytes: int) -> str | None:
        """Where the client can have the blob from, past this door; None where it cannot, or that is not worth it."""
        if not (self._direct_downloads and request.by_url and missing_bytes >= DIRECT_BYTES):
            return None
        return await in_thread(self._blobs.url, request.sha256, URL_VALID_S)

    async def SubmitUpdate(self, requests: AsyncIterator[pb.SubmitUpdateRequest], context: Context) -> None:
        await context.write(await self._receive(requests, context))

    async def _receive(
        self, requests: AsyncIterator[pb.SubmitUpdateRequest], context: Context
    ) -> pb.SubmitUpdateResponse:
        """Takes an update and acknowledges its chunks; returns the last response."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidRequest("header: missing; it is the first message of an update")
        announced = first.header
        client = await self._caller(announced, context)
        job_id, number = in_round(announced)
        blob = messages.blob_of(announced)
        admitted = await self._agents.admit(job_id, number, client, instance(context))
        if isinstance(admitted, Duplicate):
            return messages.duplicate(client, number)
        upload, agent = Upload(self._blobs, messages.manifest(admitted, client), blob), instance(context)

        async def check() -> None:  # also a sign of life, where no other call comes through
            await self._caller(announced, context)
            await self._agents.check_open(job_id, number, client, agent)
            await in_thread(upload.check_in_place)

        receipt = await watched(self._take(upload, announced, requests, context), check)
        await self._caller(announced, context)  # who was revoked while it sent is out
        recorded = await self._agents.report(job_id, number, client, receipt, instance(context))
        if recorded.outcome == "duplicate":
            return messages.duplicate(client, number)
        reason = f"the update of {client} is in round {number}; it has {blob.size_bytes} bytes"
        return pb.SubmitUpdateResponse(outcome=pb.SubmitUpdateResponse.OUTCOME_ACCEPTED, reason=reason)

    async def _take(
        self,
        upload: Upload,
        announced: pb.UpdateHeader,
        requests: AsyncIterator[pb.SubmitUpdateRequest],
        context: Context,
    ) -> UpdateReceipt:
        account = self._calls.account(context)
        async with self._metered(announced, announced.client, "up") as passed:
            try:
                await in_thread(upload.open, announced.offset)
                async with aclosing(self._ahead.batches(chunks(requests))) as arriving:
                    async for batch in arriving:
                        size = sum(map(len, batch))
                        passed(size)
                        account.received_bytes += size
                        await in_thread(upload.write, *batch)
                        await written(context, pb.SubmitUpdateResponse(received_bytes=upload.received))
                return await in_thread(upload.finish)
            finally:
                await in_thread(upload.close)

    async def QueryUpload(self, request: pb.QueryUploadRequest, context: Context) -> pb.QueryUploadResponse:
        client = await self._caller(request, context)
        job_id, number = in_round(request)
        blob = messages.blob_of(request)
        admitted = await self._agents.admit(job_id, number, client, instance(context))
        if isinstance(admitted, Duplicate):
            return pb.QueryUploadResponse(accepted=True, received_bytes=blob.size_bytes)
        key = PartialKey(job_id, admitted.round.model_version + 1, client, blob.sha256)
        return pb.QueryUploadResponse(received_bytes=await in_thread(received_bytes, self._blobs, key, blob))

    async def ReportCheck(self, request: pb.ReportCheckRequest, context: Context) -> pb.ReportCheckResponse:
        client = await self._caller(request, context)
        problem = prose("problem", request.problem) if request.problem else None
        job_id, agent = text("job_id", request.job_id), instance(context)
        reason = code("code", request.code)
        await self._agents.site_checked(job_id, client, problem, messages.site_facts(request), agent, reason)
        return pb.ReportCheckResponse()

    async def ReadJob(self, request: pb.ReadJobRequest, context: Context) -> pb.ReadJobResponse:
        client = await self._caller(request, context)
        job = await self._agents.job_of(text("job_id", request.job_id), client)
        return pb.ReadJobResponse(spec_json=json.dumps(job.spec))

    async def ReportProgress(self, request: pb.ReportProgressRequest, context: Context) -> pb.ReportProgressResponse:
        client = await self._caller(request, context)
        (job_id, number), agent = in_round(request), instance(context)
        try:
            if request.HasField("failure"):
                words, reason = prose("failure", request.failure), code("failure_code", request.failure_code)
                await self._agents.client_failed(job_id, number, client, words, agent, reason)
                return pb.ReportProgressResponse(go_on=False, reason="the failure is noted; ask for the next task")
            seen = None
            if request.HasField("evaluation"):
                result = messages.evaluation(request.evaluation)
                seen = (await self._agents.evaluated(job_id, number, client, result, agent)).round
            loss = request.train_loss if request.step else None  # before the first step there is none
            at = (stage(request.stage), request.step, loss)
            go_on, reason = await self._agents.progress(job_id, number, client, *at, seen, agent)
        except _TASK_GONE as error:
            go_on, reason = False, str(error)
        return pb.ReportProgressResponse(go_on=go_on, reason=reason)

    async def _caller(self, message: Any, context: Context) -> str:
        """The client that a message speaks for, once the call has proved to come from it.

        Raises:
            InvalidRequest, InvalidAgent: no client is named, or no name.
            NotAuthenticated, NotAllowed: the call's key, or certificate, is not this client's.
        """
        client = name("client", message.client)
        check_certificate(context, client)
        await self._doorkeeper.check_agent(client, bearer(header(context, "authorization")))
        self._calls.admit(context, client)
        structlog.contextvars.bind_contextvars(client=client, **_about(message))  # of this call's task alone
        return client

    async def _still_caller(self, message: Any, context: Context) -> None:
        """Raises what `_caller` does, and `NameTaken` where another agent speaks for the client by now."""
        await self._agents.check_instance(await self._caller(message, context), instance(context))

    def _read(self, sha256: str, offset: int) -> bytes:
        """The next chunk of a blob; none where the file ends, or is missing."""
        try:
            return self._blobs.read(sha256, offset, CHUNK_BYTES)
        except BlobNotFound:
            return b""

    def _metered(
        self, message: pb.UpdateHeader | pb.DownloadBlobRequest, client: str, direction: Literal["up", "down"]
    ) -> AbstractAsyncContextManager[Callable[[int], None]]:
        """Counts bytes for the traffic of the message's round."""
        job_id, number = message.job_id, message.round
        count = partial(self._agents.count_traffic, job_id, number, client, direction)
        return metered(count, job=job_id, round=number, client=client)


def _about(message: Any) -> dict[str, Any]:
    """Job and round of a message that has them, for lines of the log."""
    job, number = plain(getattr(message, "job_id", "")[:MAX_TEXT]), getattr(message, "round", 0)
    return ({"job": job} if job else {}) | ({"round": number} if number else {})
