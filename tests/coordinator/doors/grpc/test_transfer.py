"""The agents' door: downloads and uploads of files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.doors.grpc.server import serve
from coordinator.state import setbacks
from coordinator.store.partials import clean_partials
from fedgalore.process.redis_server import RedisServer
from fedgalore.spec.layout import update_tensors
from fedgalore.spec.registry import methods
from protos import CHUNK_BYTES, MAX_REQUEST_BYTES, PIECE_BYTES, federation_pb2_grpc
from protos import federation_pb2 as pb
from tests.builders import a_plan, blob_path, put_bytes
from tests.coordinator.doors.grpc.door import BIG, Code, House, failing, header, open_house, outcome_of
from tests.coordinator.doors.grpc.updates import Sample, full, ref
from tests.looking import receipt_of


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path) as house:
        yield house


# --- downloads ------------------------------------------------------------------------------------------------------


async def test_a_blob_comes_in_chunks_and_from_an_offset_and_is_counted(house: House) -> None:
    job = await house.round()
    chunks = await house.download("site-a", ref(BIG).sha256, job_id=job.id, round=1)
    assert b"".join(chunks) == BIG
    assert {len(chunk) for chunk in chunks[: CHUNK_BYTES // PIECE_BYTES]} == {PIECE_BYTES}
    assert max(map(len, chunks)) <= CHUNK_BYTES
    rest = await house.download("site-a", ref(BIG).sha256, offset=CHUNK_BYTES + 7, job_id=job.id, round=1)
    assert b"".join(rest) == BIG[CHUNK_BYTES + 7 :]
    assert await house.download("site-a", ref(BIG).sha256, offset=len(BIG), job_id=job.id, round=1) == []
    assert (await house.traffic(job))["site-a"] == {"down": 2 * len(BIG) - CHUNK_BYTES - 7, "up": 0}


async def test_a_missing_or_truncated_blob_is_reported_as_lost(house: House) -> None:
    job = await house.round()
    path = blob_path(house.blobs, ref(BIG).sha256)
    words = (
        f"lost blob {ref(BIG).sha256} of job {job.id}, which version 0 is made of",
        "restore it, or post the job again",
    )
    path.write_bytes(BIG[: CHUNK_BYTES + 1])
    async with failing(Code.DATA_LOSS, *words):
        await house.download("site-a", ref(BIG).sha256, job_id=job.id, round=1)
    assert await house.traffic(job) == {"site-a": {"down": CHUNK_BYTES + 1, "up": 0}}
    path.unlink()
    async with failing(Code.DATA_LOSS, *words):
        await house.download("site-a", ref(BIG).sha256, job_id=job.id, round=1)


async def test_a_client_gets_only_blobs_that_its_tasks_name(house: House) -> None:
    job = await house.round()
    secret = put_bytes(house.blobs, b"another client's update").sha256
    async with failing(Code.NOT_FOUND, f"no task of site-a in job {job.id} names blob"):
        await house.download("site-a", secret, job_id=job.id, round=1)
    async with failing(Code.PERMISSION_DENIED, "site-c"):
        await house.download("site-c", ref(BIG).sha256, job_id=job.id, round=1)
    async with failing(Code.NOT_FOUND, "round 7"):
        await house.download("site-a", ref(BIG).sha256, job_id=job.id, round=7)
    async with failing(Code.OUT_OF_RANGE, f"the blob has {len(BIG)} bytes"):
        await house.download("site-a", ref(BIG).sha256, job_id=job.id, round=1, offset=len(BIG) + 1)


# --- uploads --------------------------------------------------------------------------------------------------------


async def test_an_update_is_accepted_once_and_counted(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    assert (await house.submit(sample, content)).outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED
    receipt = await receipt_of(house.engine, job.id, 1, "site-a")
    assert receipt is not None
    assert (receipt.blob, receipt.num_examples) == (ref(content), 1200)
    assert blob_path(house.blobs, receipt.blob.sha256).read_bytes() == content
    assert (await house.query(sample, ref(content))).accepted

    other = replace(sample, metadata={"num_examples": "7"}).bytes_in(house.tmp)
    for again in (content, other):
        answer = await house.submit(sample, again)
        assert answer.outcome == pb.SubmitUpdateResponse.OUTCOME_DUPLICATE
        assert "nothing changed" in answer.reason
    assert await receipt_of(house.engine, job.id, 1, "site-a") == receipt
    assert not house.blobs.exists(ref(other).sha256)
    assert await house.traffic(job) == {"site-a": {"up": len(content), "down": 0}}


async def test_a_duplicate_is_answered_before_its_body_is_sent_and_after_the_round(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    await house.submit(sample, content)
    call = house.stub.SubmitUpdate()
    await call.write(header(sample, ref(content)))
    assert (await asyncio.wait_for(outcome_of(call), 5)).outcome == pb.SubmitUpdateResponse.OUTCOME_DUPLICATE
    await house.engine.people.cancel(job.id)
    assert (await house.submit(sample, content)).outcome == pb.SubmitUpdateResponse.OUTCOME_DUPLICATE
    assert (await house.query(sample, ref(content))).accepted


async def test_a_broken_upload_goes_on_where_it_ended(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    blob = ref(content)
    call = await house.begin(sample, content, 600)
    async with failing(Code.ABORTED, "another connection"):
        await house.submit(sample, content, offset=600)
    call.cancel()
    for _ in range(500):  # until the server has noticed
        try:
            answer = await house.submit(sample, content, offset=600)
            break
        except grpc.aio.AioRpcError as error:
            assert error.code() is Code.ABORTED, error  # noqa: PT017 - any other answer would be wrong
            await asyncio.sleep(0.01)
    assert answer.outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED
    assert blob_path(house.blobs, blob.sha256).read_bytes() == content
    assert (await house.traffic(job))["site-a"]["up"] == len(content)


async def test_an_upload_survives_the_server(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    await house.begin(sample, content, 600)
    await house.server.stop(0)
    second = await serve(house.engine.agents, house.blobs, house.doorkeeper, house.trail, "127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{second.port}") as channel:
            after = replace(house, stub=federation_pb2_grpc.FederationStub(channel))
            assert (await after.query(sample, ref(content))).received_bytes == 600
            answer = await after.submit(sample, content, offset=600)
        assert answer.outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED
    finally:
        await second.stop(0)


@pytest.mark.slow
async def test_an_update_whose_report_failed_is_not_sent_again(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis_server:
        async with open_house(redis_server.url, tmp_path) as house:
            job = await house.round()
            sample = house.sample(job)
            content = sample.bytes_in(tmp_path)
            call = await house.begin(sample, content, 600)
            redis_server.stop()
            await call.write(pb.SubmitUpdateRequest(chunk=content[600:]))
            await call.done_writing()
            async with failing(Code.UNAVAILABLE, "does not answer"):
                await outcome_of(call)
            redis_server.start()
            assert await receipt_of(house.engine, job.id, 1, "site-a") is None
            assert house.blobs.partial_keys() == []
            assert (await house.query(sample, ref(content))).received_bytes == len(content)
            answer = await house.submit(sample, content, offset=len(content))
            assert answer.outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED
            receipt = await receipt_of(house.engine, job.id, 1, "site-a")
            assert receipt is not None
            assert blob_path(house.blobs, receipt.blob.sha256).read_bytes() == content
            counted = (await house.traffic(job)).get("site-a", {"up": 0})  # the rest came while Redis could not count
            assert counted["up"] in (0, 600)


async def test_a_stream_that_ends_early_is_asked_for_the_rest(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    async with failing(Code.OUT_OF_RANGE, f"after 600 of {len(content)} bytes", "send the rest"):
        await house.submit(sample, content[:600], blob=ref(content))
    assert (await house.query(sample, ref(content))).received_bytes == 600


async def test_the_wrong_round_or_client_is_refused_before_any_chunk(house: House) -> None:
    job = await house.round()
    for client, number, code, word in (
        ("site-a", 2, Code.NOT_FOUND, "round 2"),
        ("site-c", 1, Code.PERMISSION_DENIED, "site-c"),
        ("site-x", 1, Code.UNAUTHENTICATED, "register"),
    ):
        sample = house.sample(job, client, number)
        call = house.stub.SubmitUpdate()
        async with failing(code, word):
            await call.write(header(sample, ref(sample.bytes_in(house.tmp))))
            await asyncio.wait_for(outcome_of(call), 5)
    async with failing(Code.NOT_FOUND, "job-x"):
        await house.submit(replace(house.sample(job), job_id="job-x"), b"x")
    assert house.blobs.partial_keys() == []


async def test_a_closed_round_takes_nothing_and_its_partial_files_go(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    async with failing(Code.OUT_OF_RANGE):
        await house.submit(sample, content[:600], blob=ref(content))
    assert await clean_partials(house.blobs, house.engine.reader.versions_to_come) == 0
    await house.engine.people.cancel(job.id)
    async with failing(Code.FAILED_PRECONDITION, "closed"):
        await house.submit(sample, content, offset=600)
    assert await clean_partials(house.blobs, house.engine.reader.versions_to_come) == 1
    assert house.blobs.partial_keys() == []


async def test_what_arrived_for_an_abandoned_round_counts_in_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setbacks, "FIRST_WAIT_S", 0.0)
    job = await house.round()
    await house.engine.people.forget_agent("site-c")  # it would step in
    content = house.sample(job).bytes_in(house.tmp)
    async with failing(Code.OUT_OF_RANGE):
        await house.submit(house.sample(job), content[:600], blob=ref(content))
    await house.engine.agents.client_failed(job.id, 1, "site-b", "a power cut")
    assert await clean_partials(house.blobs, house.engine.reader.versions_to_come) == 0
    await house.engine.driver.tick_all()
    again = house.sample(job, number=2)
    assert (await house.query(again, ref(content))).received_bytes == 600
    answer = await house.submit(again, content, offset=600)
    assert answer.outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED


async def test_bad_updates_change_nothing(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    name = next(iter(sample.tensors))
    nan = sample.with_value(name, float("nan")).bytes_in(house.tmp)
    async with failing(Code.INVALID_ARGUMENT, f"tensor '{name}' holds NaN"):
        await house.submit(sample, nan)
    other_round = replace(sample, metadata={"round": "9"}).bytes_in(house.tmp)
    async with failing(Code.INVALID_ARGUMENT, "metadata.round: '9'"):
        await house.submit(sample, other_round)
    small = {key: value for key, value in sample.tensors.items() if key != name}
    async with failing(Code.INVALID_ARGUMENT, f"tensor '{name}' is missing"):
        await house.submit(sample, replace(sample, tensors=small).bytes_in(house.tmp))
    content = sample.bytes_in(house.tmp)
    async with failing(Code.INVALID_ARGUMENT, "blob.sha256"):
        await house.submit(sample, content, blob=replace(ref(content), sha256="0" * 64))
    assert await receipt_of(house.engine, job.id, 1, "site-a") is None
    assert house.blobs.partial_keys() == []


METHODS: dict[str, dict[str, Any]] = {
    "fedgalore": {"kind": "fedgalore", "rank": 2, "client_ranks": {"site-b": 3}, "state_sync": "ajive"},
    "shared basis": {"kind": "fedgalore", "rank": 2, "basis": "shared"},
    "states of their own": {"kind": "fedgalore", "rank": 2, "state_sync": "local"},
    "fedavg": {"kind": "fedavg"},
    "fedit": {"kind": "fedit", "rank": 2},
    "ffa_lora": {"kind": "ffa_lora", "rank": 2},
    "flora": {"kind": "flora", "rank": 2, "client_ranks": {"site-b": 1}},
    "fedex_lora": {"kind": "fedex_lora", "rank": 2},
    "frlora": {"kind": "frlora", "rank": 2},
    "fedsvd": {"kind": "fedsvd", "rank": 2},
}


def test_every_kind_of_method_has_a_line() -> None:
    assert {method["kind"] for method in METHODS.values()} == set(methods())


def an_update(job: Any, client: str, version: int, folder: Path, **spoilt: float) -> tuple[Sample, bytes]:
    """The update that the method asks of this client in the round of `version`; -1 wherever a value may be negative.

    `spoilt`: values of the tensors with these suffixes.
    """
    tensors = update_tensors(job.parsed, a_plan(), client, version)
    values = {}
    for name, spec in tensors.items():
        suffix = name.rsplit("/")[-1]
        usual = 1.0 if suffix in ("rms", "residual") else -1.0
        values[name] = full(spec, spoilt.get(suffix, usual))
    metadata: dict[str, str | None] = {"round": str(job.round.model_version + 1)}
    sample = Sample(job.id, job.round.number, client, tensors, values, metadata)
    return sample, sample.bytes_in(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
async def test_each_method_asks_for_different_updates_by_client_and_version(house: House, method: str) -> None:
    job = await house.round(method=METHODS[method])
    sample, content = an_update(job, "site-a", 1, house.tmp)
    broken = sample.with_value(name := next(iter(sample.tensors)), float("inf"))
    async with failing(Code.INVALID_ARGUMENT, f"tensor '{name}' holds NaN or infinite values"):
        await house.submit(broken, broken.bytes_in(house.tmp))
    assert (await house.submit(sample, content)).outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED

    its_sample, content = an_update(job, "site-b", 1, house.tmp)
    if "client_ranks" in METHODS[method]:  # with the rank of site-a
        other = replace(its_sample, tensors=sample.tensors, values=sample.values)
        async with failing(Code.INVALID_ARGUMENT, "this job's plan asks for"):
            await house.submit(other, other.bytes_in(house.tmp), step=10_000)
    else:
        assert its_sample.tensors == sample.tensors
    assert (await house.submit(its_sample, content)).outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED


async def test_the_round_after_an_abandoned_first_round_is_still_the_first_of_a_shared_basis(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setbacks, "FIRST_WAIT_S", 0.0)
    job = await house.round(method=METHODS["shared basis"])
    await house.engine.people.forget_agent("site-c")  # it would step in
    await house.engine.agents.client_failed(job.id, 1, "site-a", "a power cut")  # both clients are needed
    await house.engine.driver.tick_all()
    job = await house.engine.reader.job(job.id)
    assert job.round is not None
    client = next(iter(job.round.participants))
    assert (await house.poll(client)).task.round == 2
    late, content = an_update(job, client, 2, house.tmp)
    async with failing(Code.INVALID_ARGUMENT):  # what only a client with a basis could send
        await house.submit(late, content, step=10_000)
    sample, content = an_update(job, client, 1, house.tmp)
    assert {name.rsplit("/")[-1] for name in sample.tensors} == {"sketch", "delta"}
    assert (await house.submit(sample, content)).outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED


async def test_parts_out_of_order_are_refused(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    for messages, field in (
        ([], "header"),
        ([pb.SubmitUpdateRequest()], "header"),
        ([pb.SubmitUpdateRequest(chunk=b"x")], "header"),
        ([header(sample, ref(content)), header(sample, ref(content))], "chunk"),
    ):
        async with failing(Code.INVALID_ARGUMENT, f"{field}: missing"):
            await outcome_of(house.stub.SubmitUpdate(iter(messages)))


async def test_a_message_beyond_the_limit_is_refused(house: House) -> None:
    job = await house.round()
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    big = pb.SubmitUpdateRequest(chunk=bytes(MAX_REQUEST_BYTES))
    async with failing(Code.RESOURCE_EXHAUSTED):
        await outcome_of(house.stub.SubmitUpdate(iter([header(sample, ref(content)), big])))
