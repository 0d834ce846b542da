"""Events of a job over several connections."""

from __future__ import annotations

import pytest

from fedgalore.client import AsyncClient, Client, Refused, Unreachable, waiting
from fedgalore.client.events import Event, Stream
from tests.fedgalore.client.played import Part, played

KIND = {"Content-Type": "text/event-stream"}
FIRST = b'retry: 1\n\nid: 5-0\nevent: job.status\ndata: {"status":"RUNNING"}\n\nid: 6-0\nevent: client.task\nda'
SECOND = (
    b': still here\n\nid: 6-0\nevent: client.task\ndata: {"round":1,\ndata: "client":"a"}\n\nevent: end\ndata: {}\n\n'
)
EVENTS = [
    Event("5-0", "job.status", {"status": "RUNNING"}),
    Event("6-0", "client.task", {"round": 1, "client": "a"}),
]


async def test_a_broken_stream_goes_on_behind_the_last_event_that_came_whole() -> None:
    parts = (Part(200, KIND, FIRST), Part(502, {"Content-Length": "0"}), Part(200, KIND, SECOND))
    with played(*parts) as server, Client(server.url) as client:
        assert list(client.watch("job-1", after="4-0")) == EVENTS
    assert [each.get("last-event-id") for each in server.asked] == ["4-0", "5-0", "5-0"]
    with played(*parts) as server:
        async with AsyncClient(server.url) as other:
            assert [event async for event in other.watch("job-1")] == EVENTS
    assert [each.get("last-event-id") for each in server.asked] == [None, "5-0", "5-0"]


def test_patience_with_a_coordinator_that_is_away_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.0)
    with played(Part(200, KIND, FIRST), Part(502, {"Content-Length": "0"})) as server, Client(server.url) as client:
        with pytest.raises(Unreachable, match="what stands before it says 502"):
            list(client.watch("job-1"))
        assert len(server.asked) == 3


def test_a_job_that_is_not_there_has_no_events() -> None:
    body = b'{"detail": "job does not exist", "code": "job_not_found"}'
    headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
    with (
        played(Part(404, headers, body)) as server,
        Client(server.url) as client,
        pytest.raises(Refused, match="does not exist"),
    ):
        next(client.watch("job-1"))


def test_half_an_event_does_not_pass_to_the_next_connection() -> None:
    stream = Stream()
    stream.line("data: {")
    stream.opened()
    assert stream.line("") is None
    stream.line('data: {"a": 1}')
    assert stream.line("") == Event("", "message", {"a": 1})
    assert stream.headers() == {"Accept": "text/event-stream"}
