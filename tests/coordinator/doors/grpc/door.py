"""A coordinator without REST on a real Redis, and an agent's end of a channel to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.doors.doorkeeper import Access, Doorkeeper
from coordinator.doors.grpc.server import RunningServer, serve
from coordinator.doors.limits import DoorLimits
from coordinator.engine.assembly import Engine, assemble
from coordinator.state.job_state import Job, Prepared
from coordinator.store.audit import AuditTrail, Entry, Whose
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_credential_store import RedisCredentialStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.blob_ref import BlobRef
from protos import CHUNK_BYTES, federation_pb2_grpc
from protos import federation_pb2 as pb
from tests.builders import a_plan, a_spec, put_bytes, whole_version
from tests.coordinator.doors.grpc.updates import EXACTLY, Sample, ref
from tests.looking import traffic_of
from tests.sites import all_fit

Code = grpc.StatusCode
BIG = np.random.default_rng(0).bytes(2 * CHUNK_BYTES + 12_345)


@dataclass
class House:
    """A coordinator without REST, and an agent's end of a channel to it."""

    engine: Engine
    blobs: DirectoryBlobStore
    server: RunningServer
    doorkeeper: Doorkeeper
    trail: AuditTrail
    channel: grpc.aio.Channel
    stub: Any
    tmp: Path

    async def register(self, *clients: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        for client in clients:
            await self.stub.Register(
                pb.RegisterRequest(
                    client=client,
                    protocol_version=PROTOCOL_VERSION,
                    software_version="0.1.0",
                    datasets={"reviews": 10},
                ),
                metadata=metadata,
            )

    async def job(self, **sections: Any) -> Job:
        """A running job whose blobs are in the store."""
        job, _ = await self.engine.people.create(a_spec(wire=EXACTLY, **sections), posted_by="alice 1a2b3c4d")
        await all_fit(self.engine)
        weights, base = put_bytes(self.blobs, BIG), put_bytes(self.blobs, b"config")
        prepared = Prepared(a_plan().to_dict(), (("config.json", base),), (), whole_version(0, weights))
        return await self.engine.aggregator.prepared(job.id, prepared)

    async def round(self, **sections: Any) -> Job:
        """A job with a round open to site-a and site-b; site-c is a bystander."""
        await self.register("site-a", "site-b")
        job = await self.job(**sections)
        await self.engine.driver.tick_all()
        await self.register("site-c")
        for client in ("site-a", "site-b"):
            assert (await self.poll(client)).HasField("task")
        return await self.engine.reader.job(job.id)

    async def poll(self, client: str, wait_s: float = 0) -> pb.NextTaskResponse:
        return await self.stub.NextTask(pb.NextTaskRequest(client=client, wait_s=wait_s))

    def sample(self, job: Job, client: str = "site-a", number: int = 1) -> Sample:
        return Sample(job_id=job.id, round=number, client=client)

    async def submit(
        self, sample: Sample, content: bytes, offset: int = 0, blob: BlobRef | None = None, step: int = 300
    ) -> pb.SubmitUpdateResponse:
        return await outcome_of(
            self.stub.SubmitUpdate(parts(sample, blob or ref(content), offset, content[offset:], step))
        )

    async def begin(self, sample: Sample, content: bytes, size: int) -> Any:
        """A call that has sent `size` bytes, which the server has taken, and stays open."""
        call = self.stub.SubmitUpdate()
        await call.write(header(sample, ref(content)))
        await call.write(pb.SubmitUpdateRequest(chunk=content[:size]))
        for _ in range(500):
            if (await self.query(sample, ref(content))).received_bytes == size:
                return call
            await asyncio.sleep(0.01)
        raise AssertionError("the server did not take the bytes")

    async def query(self, sample: Sample, blob: BlobRef) -> pb.QueryUploadResponse:
        request = pb.QueryUploadRequest(
            client=sample.client, job_id=sample.job_id, round=sample.round, blob=pb_ref(blob)
        )
        return await self.stub.QueryUpload(request)

    async def download(self, client: str, sha256: str, **fields: Any) -> list[bytes]:
        request = pb.DownloadBlobRequest(client=client, sha256=sha256, **fields)
        return [message.data async for message in self.stub.DownloadBlob(request)]

    async def begin_download(self, job: Job, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
        """A call of site-a that has read the start of its model, and stands still: the rest has no room on the line."""
        wanted = pb.DownloadBlobRequest(client="site-a", sha256=ref(BIG).sha256, job_id=job.id, round=1)
        call = self.stub.DownloadBlob(wanted, metadata=metadata)
        await call.read()
        return call

    async def let_go(self) -> Entry:
        """What the audit says of a transfer, when the server has ended it, whether that can be read or not."""
        async with asyncio.timeout(20):
            while True:
                for each in await self.trail.page(None, 10, Whose.AGENTS):
                    if each.entry.method in ("DownloadBlob", "SubmitUpdate"):
                        return each.entry
                await asyncio.sleep(0.01)

    async def traffic(self, job: Job) -> dict[str, dict[str, int]]:
        return (await traffic_of(self.engine, job.id)).get(1, {})


async def outcome_of(call: Any) -> pb.SubmitUpdateResponse:
    """The last response of an upload; those before it acknowledge chunks."""
    *acknowledged, last = [response async for response in call]
    sizes = [response.received_bytes for response in acknowledged]
    assert sizes == sorted(sizes)
    assert not any(response.outcome for response in acknowledged)
    return last


def pb_ref(blob: BlobRef) -> pb.BlobRef:
    return pb.BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes)


def header(sample: Sample, blob: BlobRef, offset: int = 0) -> pb.SubmitUpdateRequest:
    return pb.SubmitUpdateRequest(
        header=pb.UpdateHeader(
            client=sample.client, job_id=sample.job_id, round=sample.round, blob=pb_ref(blob), offset=offset
        )
    )


def parts(sample: Sample, blob: BlobRef, offset: int, rest: bytes, step: int) -> Iterator[pb.SubmitUpdateRequest]:
    yield header(sample, blob, offset)
    for start in range(0, len(rest), step):
        yield pb.SubmitUpdateRequest(chunk=rest[start : start + step])


@asynccontextmanager
async def failing(code: grpc.StatusCode, *words: str) -> AsyncIterator[None]:
    """The call inside fails with this status, and its details contain these words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    details = caught.value.details() or ""
    assert (caught.value.code(), [word for word in words if word not in details]) == (code, []), details


@asynccontextmanager
async def open_house(
    redis_url: str, tmp: Path, access: Access = Access.OPEN, limits: DoorLimits | None = None
) -> AsyncIterator[House]:
    store = RedisStateStore(redis_url)
    engine, trail = assemble(store), AuditTrail(store.connection, 1000)
    credentials = RedisCredentialStore(redis_url)
    doorkeeper = Doorkeeper(credentials, access)
    blobs = DirectoryBlobStore(tmp / "store")
    server = await serve(engine.agents, blobs, doorkeeper, trail, "127.0.0.1", 0, limits=limits)
    options = [("grpc.http2.bdp_probe", 0)]  # else the window grows, and a line takes a whole file that nobody reads
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield House(engine, blobs, server, doorkeeper, trail, channel, federation_pb2_grpc.FederationStub(channel), tmp)
    await server.stop(0)
    await engine.close()
    await credentials.close()
