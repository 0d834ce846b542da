"""Join tokens and agents' keys at the gRPC door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.doors import watched
from coordinator.doors.doorkeeper import Access
from coordinator.store.binding import Binding
from coordinator.store.credentials import digest_of
from coordinator.store.redis_state_store import RedisStateStore
from protos import INSTANCE_KEY
from protos import federation_pb2 as pb
from tests.coordinator.doors.access import CALLS, KEY, as_agent, both_registered, call, enrol
from tests.coordinator.doors.grpc.door import Code, House, failing, header, open_house, outcome_of
from tests.coordinator.doors.grpc.updates import ref
from tests.looking import receipt_of


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path, Access.SECURED) as house:
        yield house


async def status(house: House, method: str) -> grpc.StatusCode:
    """The status of a call that site-a sends."""
    try:
        await call(house, method, metadata=as_agent())
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


def test_the_calls_here_are_all_there_are() -> None:
    service = pb.DESCRIPTOR.services_by_name["Federation"]
    assert {method.name for method in service.methods} == {*CALLS, "Enrol"}


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_is_authenticated(house: House, method: str) -> None:
    other = "fga_" + "6" * 64
    await enrol(house, "site-b", other)
    for metadata in ((), as_agent(), as_agent(other), (("authorization", KEY),)):
        async with failing(Code.UNAUTHENTICATED, "site-a"):
            await call(house, method, metadata=metadata)
    await enrol(house)
    for metadata in ((), as_agent(other), as_agent(digest_of(KEY))):
        async with failing(Code.UNAUTHENTICATED, "site-a"):
            await call(house, method, metadata=metadata)
    await call(house, "Register", metadata=as_agent())
    assert await status(house, method) is not Code.UNAUTHENTICATED


async def test_a_join_token_admits_a_single_client_with_a_single_key(house: House) -> None:
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    async with failing(Code.PERMISSION_DENIED, "another client", "fedgalore agents invite site-b"):
        await enrol(house, "site-b", token=token)
    await enrol(house, token=token)
    await enrol(house, token=token)  # the same agent after a restart
    async with failing(Code.PERMISSION_DENIED, "used already"):
        await enrol(house, key="fga_" + "7" * 64, token=token)
    await call(house, "Register", metadata=as_agent())


async def test_a_race_for_a_join_token_has_a_single_winner(house: House) -> None:
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    attempts = [enrol(house, key=f"fga_{number:064}", token=token) for number in range(8)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert outcomes.count(None) == 1


async def test_an_expired_unknown_or_revoked_token_is_refused(house: House) -> None:
    _, old = await house.doorkeeper.create_join_token("site-a", -1)
    async with failing(Code.PERMISSION_DENIED, "expired"):
        await enrol(house, token=old)
    gone, text = await house.doorkeeper.create_join_token("site-a", 60)
    await house.doorkeeper.revoke_join_token(gone.id)
    for token in (text, "nonsense", f"fgj_{gone.id}_{'0' * 64}"):
        async with failing(Code.PERMISSION_DENIED, "not known"):
            await enrol(house, token=token)
    async with failing(Code.INVALID_ARGUMENT, "key_sha256"):
        await house.stub.Enrol(pb.EnrolRequest(client="site-a", join_token="x", key_sha256="short"))


async def test_another_token_replaces_the_key_of_a_client_that_lost_it(house: House) -> None:
    await enrol(house)
    new = "fga_" + "8" * 64
    await enrol(house, key=new)
    async with failing(Code.UNAUTHENTICATED):
        await call(house, "Register", metadata=as_agent())
    await call(house, "Register", metadata=as_agent(new))


async def test_a_revoked_client_is_out_and_its_tokens_are_void(house: House) -> None:
    await enrol(house)
    await call(house, "Register", metadata=as_agent())
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    assert await house.doorkeeper.revoke_agent("site-a")
    async with failing(Code.UNAUTHENTICATED):
        await call(house, "NextTask", metadata=as_agent())
    async with failing(Code.PERMISSION_DENIED):
        await enrol(house, token=token)
    assert not await house.doorkeeper.revoke_agent("site-a")


async def test_an_update_of_a_client_that_is_revoked_while_it_sends_does_not_count(
    house: House, tmp_path: Path
) -> None:
    await both_registered(house)
    job = await house.job()
    await house.engine.driver.tick_all()
    await house.stub.NextTask(pb.NextTaskRequest(client="site-a"), metadata=as_agent())
    job = await house.engine.reader.job(job.id)
    sample = house.sample(job)
    content = sample.bytes_in(tmp_path)
    sending = house.stub.SubmitUpdate(metadata=as_agent())
    await sending.write(header(sample, ref(content)))
    await sending.write(pb.SubmitUpdateRequest(chunk=content[:100]))
    await house.doorkeeper.revoke_agent("site-a")
    async with failing(Code.UNAUTHENTICATED):
        await sending.write(pb.SubmitUpdateRequest(chunk=content[100:]))
        await sending.done_writing()
        await outcome_of(sending)
    assert await receipt_of(house.engine, job.id, 1, "site-a") is None


async def test_health_and_reflection_ask_nobody(house: House) -> None:
    answer = await health_pb2_grpc.HealthStub(house.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_revoked_key_stays_void_whatever_token_comes_with_it(house: House) -> None:
    await enrol(house)
    await house.doorkeeper.revoke_agent("site-a")
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    async with failing(
        Code.PERMISSION_DENIED,
        "key of client site-a was revoked; delete agent.key in the agent's work folder and start",
    ):
        await enrol(house, token=token)
    new = "fga_" + "9" * 64
    await enrol(house, key=new, token=token)  # the refusal did not use the token up
    await call(house, "Register", metadata=as_agent(new))


async def test_a_token_that_was_not_needed_is_spent_all_the_same(house: House) -> None:
    await enrol(house)
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    await enrol(house, token=token)
    async with failing(Code.PERMISSION_DENIED, "used already"):
        await enrol(house, key="fga_" + "7" * 64, token=token)


async def test_who_is_revoked_while_it_registers_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrol(house)
    register = house.engine.agents.register

    async def slow(*arguments: Any) -> None:
        await register(*arguments)
        await house.doorkeeper.revoke_agent("site-a")

    monkeypatch.setattr(house.engine.agents, "register", slow)
    async with failing(Code.UNAUTHENTICATED):
        await call(house, "Register", metadata=as_agent())
    assert await house.engine.reader.agents() == []


async def test_a_poll_that_waits_with_an_old_key_gets_no_work(house: House) -> None:
    new = "fga_" + "8" * 64
    await both_registered(house)
    waiting = house.stub.NextTask(pb.NextTaskRequest(client="site-a", wait_s=30), metadata=as_agent())
    await enrol(house, key=new)
    await house.job()
    await house.engine.driver.tick_all()
    async with failing(Code.UNAUTHENTICATED):
        await waiting
    assert (await house.stub.NextTask(pb.NextTaskRequest(client="site-a"), metadata=as_agent(new))).HasField("task")


async def test_a_download_ends_when_its_client_is_revoked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "RECHECK_S", 0.01)
    await both_registered(house)
    job = await house.job()
    await house.engine.driver.tick_all()
    await house.stub.NextTask(pb.NextTaskRequest(client="site-a"), metadata=as_agent())
    call = await house.begin_download(job, as_agent())
    await house.doorkeeper.revoke_agent("site-a")
    entry = await house.let_go()  # it stands still, and ends all the same
    assert (entry.name, entry.outcome) == ("site-a", "UNAUTHENTICATED")
    assert entry.sent_bytes > 0
    async with failing(Code.UNAUTHENTICATED):
        while await call.read():
            pass


async def test_agents_wait_while_the_coordinator_has_another_redis(house: House, redis_url: str) -> None:
    store = RedisStateStore(redis_url)
    binding = Binding(store, house.blobs)
    await binding.check()
    house.doorkeeper._check_state = binding.must_hold
    async with failing(Code.UNAUTHENTICATED):
        await call(house, "Register", metadata=as_agent())
    with redis.Redis.from_url(redis_url) as client:  # as if it were another server, or an emptied server
        client.flushall()
    async with failing(Code.UNAVAILABLE, "blob_dir belongs to another Redis"):
        await call(house, "Register", metadata=as_agent())
    async with failing(Code.UNAVAILABLE):
        await enrol(house, token="fgj_00000000_" + "0" * 64)
    await store.close()


async def test_no_call_of_another_machine_is_taken_while_the_first_is_present(house: House) -> None:
    """Neither with a token of its own, which would make the first one's key void, nor with a copy of the key."""

    def instance(name: str) -> tuple[tuple[str, str], ...]:
        return ((INSTANCE_KEY, f"{name}/1"),)

    await enrol(house)
    await house.register("site-a", metadata=as_agent() + instance("first"))
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    other = pb.EnrolRequest(client="site-a", join_token=token, key_sha256=digest_of("fga_" + "7" * 64))
    with pytest.raises(grpc.aio.AioRpcError, match="another agent serves as"):
        await house.stub.Enrol(other, metadata=instance("second"))
    for method in CALLS.keys() - {"ReadJob"}:  # which `--check` asks beside a running agent
        with pytest.raises(grpc.aio.AioRpcError, match="another agent") as caught:
            await call(house, method, metadata=as_agent() + instance("second"))
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    await call(house, "NextTask", metadata=as_agent() + instance("first"))
