"""Around every call of the agents' door: its message comes in time, and no caller has more calls than its share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.doors import watched
from coordinator.doors.grpc import ahead, calls
from coordinator.doors.grpc.server import SERVICE
from coordinator.doors.limits import DoorLimits
from fedgalore import PROTOCOL_VERSION
from protos import CHUNK_BYTES
from protos import federation_pb2 as pb
from tests.coordinator.doors.grpc.door import BIG, Code, House, failing, header, open_house
from tests.coordinator.doors.grpc.updates import ref

SHARE = 3


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path, limits=DoorLimits(max_calls_per_client=SHARE)) as house:
        yield house


async def test_a_client_has_its_share_of_calls_of_whatever_kind(house: House) -> None:
    for client in ("site-a", "site-b"):  # without data, so that no job asks them anything
        await house.stub.Register(
            pb.RegisterRequest(client=client, protocol_version=PROTOCOL_VERSION, software_version="1")
        )
    held = [house.stub.NextTask(pb.NextTaskRequest(client="site-a", wait_s=50)) for _ in range(SHARE)]
    refusals = [words async for words in polled(house, "site-a", refused=True) if words]
    assert "calls: site-a has 3 at a time" in refusals[0]
    assert "max_calls_per_client" in refusals[0]
    await house.poll("site-b")
    for call in held:
        call.cancel()
    assert [words async for words in polled(house, "site-a", refused=False)][-1] == ""


async def polled(house: House, client: str, refused: bool) -> AsyncIterator[str]:
    """The words of each refusal of polls, until one is refused, or is not."""
    async with asyncio.timeout(10):
        words: str | None = None
        while words is None or bool(words) != refused:
            try:
                await house.poll(client)
                words = ""
            except grpc.aio.AioRpcError as error:
                words = error.details() or ""
            yield words


@pytest.mark.parametrize("method", ["Register", "DownloadBlob", "Enrol", "SubmitUpdate"])
async def test_a_call_whose_message_does_not_come_is_ended(
    house: House, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(calls, "MESSAGE_S", 0.02)
    async with failing(Code.ABORTED, "did not come whole"):
        await house.channel.stream_unary(f"/{SERVICE}/{method}")()


async def test_half_open_calls_over_a_line_of_an_agent_do_not_keep_its_calls_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy joins strangers and agents on a line."""
    monkeypatch.setattr(calls, "READ_AT_ONCE", 1)
    await house.stub.Register(
        pb.RegisterRequest(client="site-a", protocol_version=PROTOCOL_VERSION, software_version="1")
    )
    silent = [house.channel.stream_unary(f"/{SERVICE}/Enrol")() for _ in range(2 * SHARE)]
    await asyncio.sleep(0.05)  # their headers go first
    await asyncio.wait_for(house.poll("site-a"), 10)
    for call in silent:
        call.cancel()


async def test_a_call_without_a_message_is_refused(house: House) -> None:
    async with failing(Code.INVALID_ARGUMENT, "request: missing"):
        await house.channel.stream_unary(f"/{SERVICE}/Register")(iter(()))


async def test_the_health_service_answers_as_ever(house: House) -> None:
    stub = health_pb2_grpc.HealthStub(house.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    watching = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
    watching.cancel()
    async with failing(Code.UNIMPLEMENTED):
        await house.channel.unary_unary(f"/{SERVICE}/Unheard")(b"")


# --- streams that stand still ---------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "RECHECK_S", 0.02)


async def standing_upload(house: House, job: Any) -> Any:
    sample = house.sample(job)
    return await house.begin(sample, sample.bytes_in(house.tmp), 600)


async def standing_download(house: House, job: Any) -> Any:
    return await house.begin_download(job)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("begin", [standing_upload, standing_download])
async def test_a_stream_that_stands_still_ends_with_its_round(house: House, begin: Any) -> None:
    job = await house.round()
    call = await begin(house, job)
    async with asyncio.timeout(10):
        while not any((await house.traffic(job)).get("site-a", {}).values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # it is counted before it ends: somebody may kill the coordinator
    await house.engine.people.cancel(job.id)
    entry, moved = await house.let_go(), (await house.traffic(job))["site-a"]
    assert (entry.outcome, entry.received_bytes, entry.sent_bytes) == ("FAILED_PRECONDITION", *moved.values())
    async with failing(Code.FAILED_PRECONDITION):
        async with asyncio.timeout(10):
            while await call.read():
                pass


@pytest.mark.usefixtures("hasty")
async def test_an_upload_whose_place_another_takes_lets_go_of_its_file(house: House) -> None:
    job = await house.round()
    call = await standing_upload(house, job)
    second = house.stub.SubmitUpdate()
    await second.write(header(house.sample(job), ref(BIG[: len(house.sample(job).bytes_in(house.tmp))])))
    async with failing(Code.FAILED_PRECONDITION, "deleted while it was on its way"):
        async with asyncio.timeout(10):
            while await call.read():
                pass
    second.cancel()


async def test_an_upload_that_stands_still_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    call = await standing_upload(house, await house.round())
    monkeypatch.setattr(ahead, "STALL_S", 0.02)
    await call.write(pb.SubmitUpdateRequest(chunk=b"x"))
    async with failing(Code.ABORTED, "nothing of the update came"):
        while await call.read():
            pass


@pytest.mark.parametrize("begin", [standing_upload, standing_download])
async def test_a_server_that_stops_waits_for_what_its_calls_still_write(
    house: House, monkeypatch: pytest.MonkeyPatch, begin: Any
) -> None:
    job = await house.round()
    call = await begin(house, job)
    count = house.engine.agents.count_traffic

    async def late(*arguments: Any) -> None:
        await asyncio.sleep(0.1)
        await count(*arguments)

    monkeypatch.setattr(house.engine.agents, "count_traffic", late)
    await house.server.stop(0)
    assert await house.traffic(job)
    call.cancel()


async def test_a_chunk_is_no_longer_than_agents_send(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    call = house.stub.SubmitUpdate()
    await call.write(header(sample, ref(content)))
    await call.write(pb.SubmitUpdateRequest(chunk=bytes(CHUNK_BYTES + 1)))
    async with failing(Code.INVALID_ARGUMENT, "chunk: has 1048577 bytes"):
        await call.read()
