"""What the audit says of calls at the agents' door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator.doors.audited import MOST_CHARACTERS, shown
from coordinator.doors.doorkeeper import Access
from coordinator.doors.grpc.audit import MOST_AT_ONCE, MOST_PER_S, Share
from coordinator.store.audit import Entry, Whose
from coordinator.store.credentials import digest_of
from protos import federation_pb2 as pb
from tests.coordinator.doors.access import KEY, as_agent, both_registered, call
from tests.coordinator.doors.grpc.door import BIG, Code, House, failing, open_house, outcome_of, parts
from tests.coordinator.doors.grpc.updates import ref

KEY_BEGINS = digest_of(KEY)[:8]


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path, Access.SECURED) as house:
        yield house


async def entries(house: House, whose: Whose) -> list[Entry]:
    """Oldest first."""
    return [each.entry for each in reversed(await house.trail.page(None, 100, whose))]


async def test_who_joins_fetches_or_sends_something_is_audited_with_its_bytes_and_polls_are_not(house: House) -> None:
    await both_registered(house)
    job = await house.job()
    await house.engine.driver.tick_all()
    me = as_agent()
    await house.stub.NextTask(pb.NextTaskRequest(client="site-a"), metadata=me)
    wanted = pb.DownloadBlobRequest(client="site-a", sha256=ref(BIG).sha256, job_id=job.id, round=1)
    with capture_logs() as logged:
        assert sum([len(each.data) async for each in house.stub.DownloadBlob(wanted, metadata=me)]) == len(BIG)
    sample = house.sample(job)
    content = sample.bytes_in(house.tmp)
    await outcome_of(house.stub.SubmitUpdate(parts(sample, ref(content), 0, content, 300), metadata=me))

    told = await entries(house, Whose.AGENTS)
    assert {(each.role, each.address) for each in told} == {("agent", "127.0.0.1")}
    assert [(each.method, each.outcome) for each in told if each.name == "site-b"] == [
        ("Enrol", "OK"),
        ("Register", "OK"),
    ]
    mine = [each for each in told if each.name == "site-a"]
    assert {each.key for each in mine} == {KEY_BEGINS}
    assert mine[0].path.startswith("/join-tokens/")
    place = f"/jobs/{job.id}/rounds/1"
    assert [(each.method, each.path, each.outcome, each.sent_bytes, each.received_bytes) for each in mine[1:]] == [
        ("Register", "", "OK", 0, 0),
        ("DownloadBlob", f"{place}/{ref(BIG).sha256}", "OK", len(BIG), 0),
        ("SubmitUpdate", f"{place}/{ref(content).sha256}", "OK", 0, len(content)),
    ]
    (line,) = [row for row in logged if row["event"] == "request_audited"]
    assert (line["name"], line["sent_bytes"], line["log_level"]) == ("site-a", len(BIG), "info")


async def test_a_call_that_its_caller_breaks_off_is_audited(house: House) -> None:
    await both_registered(house)
    job = await house.job()
    await house.engine.driver.tick_all()
    await house.stub.NextTask(pb.NextTaskRequest(client="site-a"), metadata=as_agent())
    (await house.begin_download(job, as_agent())).cancel()
    entry = await house.let_go()
    assert (entry.name, entry.outcome) == ("site-a", "CANCELLED")
    assert 0 < entry.sent_bytes < len(BIG)


@pytest.mark.parametrize("method", ["NextTask", "SubmitUpdate"])
async def test_whoever_shows_no_known_key_is_audited_apart(house: House, method: str) -> None:
    async with failing(Code.UNAUTHENTICATED):
        await call(house, method, metadata=as_agent())
    async with failing(Code.PERMISSION_DENIED):
        await house.stub.Enrol(pb.EnrolRequest(client="site-a", join_token="x\u202e", key_sha256="0" * 64))
    async with failing(Code.INVALID_ARGUMENT):
        await house.stub.Register(pb.RegisterRequest(client="\x1b[31m"))
    told = await entries(house, Whose.STRANGERS)
    assert [(each.method, each.name, each.role, each.key, each.outcome) for each in told] == [
        (method, "site-a", "", "", "UNAUTHENTICATED"),
        ("Enrol", "site-a", "", "", "PERMISSION_DENIED"),
        ("Register", r"\x1b[31m", "", "", "INVALID_ARGUMENT"),
    ]
    assert await entries(house, Whose.AGENTS) == []


def test_a_client_that_calls_without_end_has_its_share_of_the_stream() -> None:
    share = Share(at=0.0)
    assert [share.take(0.0) for _ in range(MOST_AT_ONCE + 3)] == [0] * MOST_AT_ONCE + [None] * 3
    assert share.take(1 / MOST_PER_S) == 3  # one more, which says how many the log alone has
    assert share.take(1 / MOST_PER_S) is None
    assert [share.take(1e9) for _ in range(MOST_AT_ONCE + 1)] == [1, *[0] * (MOST_AT_ONCE - 1), None]


async def test_what_a_looping_agent_does_beyond_its_share_is_in_the_log_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.doors.grpc.audit.MOST_AT_ONCE", 2)
    monkeypatch.setattr("coordinator.doors.grpc.audit.MOST_PER_S", 0)
    await both_registered(house)
    with capture_logs() as logged:
        for _ in range(3):
            await call(house, "Register", metadata=as_agent())
    assert [row["name"] for row in logged if row["event"] == "request_audited"] == ["site-a"] * 3
    kept = [(each.name, each.method) for each in await entries(house, Whose.AGENTS)]
    assert sorted(kept) == [(name, method) for name in ("site-a", "site-b") for method in ("Enrol", "Register")]


@pytest.mark.parametrize("letter", ["a", "\x1b", "\u202e", "\U000e0001"])
def test_what_strangers_write_takes_no_more_room_spelled_out(letter: str) -> None:
    assert len(shown(letter * 10_000)) == MOST_CHARACTERS
