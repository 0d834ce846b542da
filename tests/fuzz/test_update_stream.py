"""The agents' door under malformed streams: it refuses them with a reason, and serves clients that behave well."""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.state.job_state import Job
from protos import CHUNK_BYTES
from protos import federation_pb2 as pb
from tests.coordinator.doors.grpc.door import House, open_house, outcome_of
from tests.coordinator.doors.grpc.updates import ref
from tests.fuzz.conftest import ROW

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
Code = grpc.StatusCode
# Codes that a client may get; INTERNAL and UNKNOWN would be faults of the coordinator.
REFUSALS = {
    Code.INVALID_ARGUMENT,
    Code.OUT_OF_RANGE,
    Code.NOT_FOUND,
    Code.PERMISSION_DENIED,
    Code.FAILED_PRECONDITION,
    Code.UNAUTHENTICATED,
    Code.ABORTED,
    Code.RESOURCE_EXHAUSTED,
}
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64 - 1]))
NAMES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["../../etc/passwd", "..", "/", "a/../b", "a\0b", "x" * 5000, "job-1", "site-a", "site-b", "ß", " "]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=8,
)


# The message of grpc.aio's client, not of the coordinator, for a call that is refused while it still writes.
GRPC_CLIENT_MESSAGE = "Internal error from Core"


class Fuzz:
    """A coordinator with a round open to site-a, and its answers so far."""

    def __init__(self, house: House, job: Job, content: bytes) -> None:
        self.house, self.job, self.content = house, job, content
        self.tried, self.refused = 0, set[str]()
        self.failures: list[str] = []

    async def send(self, messages: list[pb.SubmitUpdateRequest]) -> None:
        self.tried += 1
        try:
            await outcome_of(self.house.stub.SubmitUpdate(iter(messages), timeout=20))
        except grpc.aio.AioRpcError as error:
            if error.details() == GRPC_CLIENT_MESSAGE:
                return
            self.note(error)

    def note(self, error: grpc.aio.AioRpcError) -> None:
        message = error.details() or ""
        if error.code() not in REFUSALS or not message:
            self.failures.append(f"{error.code().name}: {message}")
        self.refused.add(f"{error.code().name} {re.sub(r'[0-9a-f]{12,}|[0-9]+|[^ -~]|.(?<=x)x+', '#', message)[:60]}")


def header(draw: Any, fuzz: Fuzz, content: bytes) -> pb.SubmitUpdateRequest:
    """The header of the stream, at times with a false field."""
    blob = ref(content)
    fields = {
        "client": "site-a",
        "job_id": fuzz.job.id,
        "round": 1,
        "blob": pb.BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes),
        "offset": 0,
    }
    match draw(st.integers(0, 12)):
        case 0:
            fields["client"] = draw(NAMES.filter(_is_utf8))
        case 1:
            fields["job_id"] = draw(NAMES.filter(_is_utf8))
        case 2:
            fields["round"] = draw(st.integers(0, 2**32 - 1))
        case 3:
            fields["blob"] = pb.BlobRef(sha256=draw(NAMES.filter(_is_utf8)), size_bytes=blob.size_bytes)
        case 4:
            fields["blob"] = pb.BlobRef(sha256=blob.sha256, size_bytes=draw(st.integers(0, 2**64 - 1)))
        case 5:
            fields["offset"] = draw(st.integers(0, 2**64 - 1))
        case 6:
            fields["blob"] = pb.BlobRef(sha256="0" * 64, size_bytes=blob.size_bytes)
    return pb.SubmitUpdateRequest(header=pb.UpdateHeader(**fields))


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def file(draw: Any, content: bytes) -> bytes:
    """The update's bytes, damaged in one way or another."""
    (length,) = struct.unpack("<Q", content[:8])
    tensors, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    match draw(st.integers(0, 9)):
        case 0:
            return content
        case 1:  # any bytes at all
            return draw(st.binary(max_size=2000))
        case 2:  # cut
            return content[: draw(st.integers(0, len(content)))]
        case 3:  # bits flipped
            spoilt = bytearray(content)
            for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
                spoilt[place] ^= 1 << draw(st.integers(0, 7))
            return bytes(spoilt)
        case 4:  # a lying length
            return struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + content[8:]
        case 5:  # overlapping, swapped or absurd places
            entry = tensors[draw(st.sampled_from([name for name in tensors if name != "__metadata__"]))]
            entry["data_offsets"] = [draw(NUMBERS), draw(NUMBERS)]
        case 6:  # absurd shapes
            entry = tensors[draw(st.sampled_from([name for name in tensors if name != "__metadata__"]))]
            entry["shape"] = draw(st.lists(NUMBERS, max_size=6))
        case 7:  # other types, names, keys
            tensors[draw(NAMES)] = draw(JSON)
        case 8:
            name = draw(st.sampled_from(sorted(tensors)))
            tensors[name] = draw(JSON)
        case 9:
            tensors["__metadata__"][draw(st.sampled_from(sorted(tensors["__metadata__"])))] = draw(
                st.one_of(NAMES, NUMBERS.map(str), st.sampled_from(["NaN", "1e999", "-1", "0", "[" * 3000, "{}"]))
            )
    head = json.dumps(tensors).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(head)) + head + data


def stream(draw: Any, fuzz: Fuzz) -> list[pb.SubmitUpdateRequest]:
    """A header and chunks, at times out of order, repeated or incomplete."""
    content = file(draw, fuzz.content)
    size = draw(st.sampled_from([1, 7, 300, CHUNK_BYTES, 2 * CHUNK_BYTES]))
    chunks = [pb.SubmitUpdateRequest(chunk=content[i : i + size]) for i in range(0, min(len(content), 60 * size), size)]
    messages = [header(draw, fuzz, content), *chunks]
    match draw(st.integers(0, 9)):
        case 0 if len(messages) > 1:  # out of order
            return draw(st.permutations(messages)) if len(messages) < 40 else messages[::-1]
        case 1:  # repeated
            return messages + messages[draw(st.integers(0, len(messages) - 1)) :]
        case 2:  # a message is lost
            messages.pop(draw(st.integers(0, len(messages) - 1)))
        case 3:  # an empty message
            messages.insert(draw(st.integers(0, len(messages))), pb.SubmitUpdateRequest())
        case 4:  # far too much
            messages.append(pb.SubmitUpdateRequest(chunk=b"x" * CHUNK_BYTES))
        case 5:
            return []
    return messages


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def opened(loop: asyncio.AbstractEventLoop, redis_url: str, folder: Path, stack: AsyncExitStack) -> Fuzz:
    async def enter() -> Fuzz:
        house = await stack.enter_async_context(open_house(redis_url, folder))
        job = await house.round()
        return Fuzz(house, job, house.sample(job).bytes_in(folder))

    return loop.run_until_complete(enter())


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
def test_the_update_stream(
    loop: asyncio.AbstractEventLoop, redis_url: str, tmp_path: Path, record_property: Any
) -> None:
    stack = AsyncExitStack()
    fuzz = opened(loop, redis_url, tmp_path, stack)

    @settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        loop.run_until_complete(fuzz.send(stream(data.draw, fuzz)))
        assert fuzz.failures == []
        assert len(list((tmp_path / "store" / "partial").iterdir())) <= 2  # at most a partial file of each client

    async def behave() -> None:
        """Site-b is still served after the attacks."""
        sample = fuzz.house.sample(fuzz.job, "site-b")
        answer = await fuzz.house.submit(sample, sample.bytes_in(tmp_path))
        assert answer.outcome == pb.SubmitUpdateResponse.OUTCOME_ACCEPTED
        await stack.aclose()

    try:
        attack()
    finally:
        record_property(ROW, ["update stream", fuzz.tried, len(fuzz.refused), len(fuzz.failures)])
        loop.run_until_complete(behave())
    assert len(fuzz.refused) > 10
