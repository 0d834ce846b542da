"""Answers as HTTP: downloads that go on, HEAD, tags, compression, pages of other origins, events in the document."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter

from coordinator.doors.rest.event_schemas import EVENTS
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.state import stream_events
from tests.builders import job_document
from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem
from tests.looking import events_of

PLAIN = {"Accept-Encoding": "identity"}


async def test_a_download_goes_on_where_it_broke(stack: Stack, tmp_path: Path) -> None:
    job = await stack.completed(tmp_path)
    path = f"{JOBS}/{job.id}/model"
    whole = await stack.http.get(path)
    size, tag = len(whole.content), whole.headers["etag"]
    assert whole.headers["accept-ranges"] == "bytes"
    for asked in ({}, {"Range": "bytes=100-"}, {"Range": f"bytes={size}-"}):  # of a part only GET tells
        head = await stack.http.head(path, headers=asked)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
        assert head.headers["etag"] == tag
    for start in (1, 1000, size - 1):
        rest = await stack.http.get(path, headers={"Range": f"bytes={start}-", "If-Range": tag})
        assert (rest.status_code, rest.headers["etag"]) == (206, tag)
        assert rest.headers["content-range"] == f"bytes {start}-{size - 1}/{size}"
        assert whole.content[:start] + rest.content == whole.content
    middle = await stack.http.get(path, headers={"Range": "bytes=100-1099"})
    assert middle.content == whole.content[100:1100]
    other = await stack.http.get(f"{path}?version=0", headers={"Range": "bytes=100-", "If-Range": tag})
    assert (other.status_code, other.headers["etag"] == tag) == (200, False)
    behind = await stack.http.get(path, headers={"Range": f"bytes={size}-"})
    is_problem(behind, 416, "range_not_satisfiable")
    assert behind.headers["content-range"] == f"bytes */{size}"
    known = await stack.http.get(path, headers={"If-None-Match": tag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    audit = (await stack.http.get("/api/v1/audit?limit=4")).json()["entries"]
    assert [(row["outcome"], row["sent_bytes"]) for row in audit[:1]] == [("304", 0)]


async def test_head_is_the_head_of_every_get(stack: Stack) -> None:
    job = (await stack.post(job_document())).json()["id"]
    for path in ("/livez", JOBS, f"{JOBS}/{job}", f"{JOBS}/{job}/events", "/metrics"):
        head = await stack.http.head(path)
        assert (head.status_code, head.content) == (200, b""), path
    whole = await stack.http.get(f"{JOBS}/{job}", headers=PLAIN)
    head = await stack.http.head(f"{JOBS}/{job}", headers=PLAIN)
    assert head.headers["content-length"] == str(len(whole.content))
    assert (await stack.http.head(f"{JOBS}/nope")).status_code == 404
    assert (await stack.http.head(f"{JOBS}/{job}/pause")).status_code == 405
    assert 'method="HEAD",route="/livez",status="200"' in (await stack.http.get("/metrics")).text


async def test_texts_are_sent_once_and_small(stack: Stack) -> None:
    for _ in range(12):
        await stack.post(job_document())
    plain = await stack.http.get(JOBS, headers=PLAIN)
    assert "content-encoding" not in plain.headers
    small = await stack.http.get(JOBS, headers={"Accept-Encoding": "gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < len(plain.content) / 3
    assert small.json() == plain.json()
    assert "Accept-Encoding" in small.headers["vary"]
    assert small.headers["etag"] == plain.headers["etag"]
    known = await stack.http.get(JOBS, headers={"If-None-Match": plain.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    (await stack.http.post(f"{JOBS}/{plain.json()['jobs'][0]['id']}/cancel")).raise_for_status()
    changed = await stack.http.get(JOBS, headers={"If-None-Match": plain.headers["etag"]})
    assert changed.status_code == 200


async def test_pages_of_other_origins_call_where_a_setting_names_them(redis_url: str, tmp_path: Path) -> None:
    settings = CoordinatorSettings(
        redis_url=redis_url,
        blob_dir=tmp_path / "blobs",
        rest_port=0,
        grpc_port=0,
        aggregator=False,
        cors_origins=("https://portal.example",),
    )
    page, stranger = {"Origin": "https://portal.example"}, {"Origin": "https://portal.example.org"}
    asks = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization"}
    async with (
        serving(settings, asyncio.Event()) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}") as http,
    ):
        answer = await http.get(JOBS, headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page["Origin"])
        assert "ETag" in answer.headers["access-control-expose-headers"]
        before = await http.options(JOBS, headers={**page, **asks})
        assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, page["Origin"])
        refused = await http.get(JOBS, headers=stranger)
        assert "access-control-allow-origin" not in refused.headers
        assert "cors_origins" in is_problem(refused, 403, "not_allowed")["detail"]
        assert (await http.options(JOBS, headers={**stranger, **asks})).status_code == 400


async def test_without_that_setting_no_other_origin_calls(stack: Stack) -> None:
    answer = await stack.http.get(JOBS, headers={"Origin": "https://portal.example"})
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.slow
async def test_the_document_tells_of_every_event_and_names_every_call(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    await stack.http.patch(f"{JOBS}/{job.id}", json={"tags": ["a"]})
    await stack.trained(job, tmp_path, 1)
    await stack.http.post(f"{JOBS}/{job.id}/pause")
    rows = await events_of(stack.engine, job.id)
    assert {"job.status", "job.labels", "site.check", "round.phase", "client.task"} <= {kind for _, kind, _ in rows}
    for kind, data in [*((kind, data) for _, kind, data in rows), *((kind, each[1]) for kind, each in EVENTS.items())]:
        TypeAdapter(EVENTS[kind][0]).validate_python(data)

    document = (await stack.http.get("/openapi.json")).json()
    told = document["paths"][f"{JOBS}/{{job_id}}/events"]["get"]["responses"]["200"]
    assert told["content"]["text/event-stream"]["examples"].keys() == EVENTS.keys()
    for reference in told["x-event-schemas"].values():
        assert reference["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]
    calls = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(calls) == len(set(calls))
    assert {"create_job", "list_jobs", "get_job", "validate_job", "list_models", "download_model"} <= set(calls)
    assert [call for call in calls if "_v1_" in call] == []


def test_every_event_that_there_is_has_a_schema() -> None:
    rows = [line.split("|")[1].strip(" `") for line in (stream_events.__doc__ or "").splitlines() if "| `" in line]
    assert {*rows, "end"} == EVENTS.keys()
