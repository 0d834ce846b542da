"""A coordinator that asks for credentials, and clients that have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.store.credentials import digest_of
from fedgalore import PROTOCOL_VERSION
from protos import federation_pb2 as pb
from tests.coordinator.doors.grpc.door import House

OPERATOR = "an-operators-key-of-more-than-32-characters"
KEY = "fga_" + "5" * 64  # of site-a


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def as_agent(key: str = KEY) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@asynccontextmanager
async def rest(redis_url: str, folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    chosen = CoordinatorSettings(
        redis_url=redis_url, blob_dir=folder / "blobs", rest_port=0, grpc_port=0, aggregator=False, **settings
    )
    async with (
        serving(chosen, asyncio.Event()) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}") as http,
    ):
        yield http


async def enrol(house: House, client: str = "site-a", key: str = KEY, token: str | None = None) -> None:
    token = token or (await house.doorkeeper.create_join_token(client, 60))[1]
    await house.stub.Enrol(pb.EnrolRequest(client=client, join_token=token, key_sha256=digest_of(key)))


CALLS: dict[str, Any] = {
    "Register": pb.RegisterRequest(client="site-a", protocol_version=PROTOCOL_VERSION, software_version="1"),
    "NextTask": pb.NextTaskRequest(client="site-a"),
    "DownloadBlob": pb.DownloadBlobRequest(client="site-a", sha256="0" * 64, job_id="job-1", round=1),
    "SubmitUpdate": [
        pb.SubmitUpdateRequest(
            header=pb.UpdateHeader(
                client="site-a", job_id="job-1", round=1, blob=pb.BlobRef(sha256="0" * 64, size_bytes=1)
            )
        )
    ],
    "ReadJob": pb.ReadJobRequest(client="site-a", job_id="job-1"),
    "ReportCheck": pb.ReportCheckRequest(client="site-a", job_id="job-1"),
    "QueryUpload": pb.QueryUploadRequest(
        client="site-a", job_id="job-1", round=1, blob=pb.BlobRef(sha256="0" * 64, size_bytes=1)
    ),
    "ReportProgress": pb.ReportProgressRequest(client="site-a", job_id="job-1", round=1, stage="train"),
}


async def call(house: House, method: str, **arguments: Any) -> None:
    request = CALLS[method]
    answer = getattr(house.stub, method)(iter(request) if isinstance(request, list) else request, **arguments)
    if method in ("DownloadBlob", "SubmitUpdate"):
        async for _ in answer:
            pass
    else:
        await answer


async def both_registered(house: House) -> None:
    """Registers two clients, which is enough for a round; site-a holds `KEY`."""
    for client, key in (("site-a", KEY), ("site-b", "fga_" + "6" * 64)):
        await enrol(house, client, key)
        await house.register(client, metadata=as_agent(key))
