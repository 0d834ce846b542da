"""API keys and their roles at the REST door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr
from structlog.testing import capture_logs

from coordinator.doors import opening as doors
from coordinator.doors import watched
from coordinator.doors.rest import access as rest_access
from coordinator.store.audit import AuditTrail, Entry, Whose
from coordinator.store.credentials import digest_of
from coordinator.store.redis_connection import RedisConnection
from tests.builders import job_document
from tests.coordinator.doors.access import OPERATOR, bearing, rest


@pytest.fixture
async def http(redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, of a coordinator that asks for one."""
    async with rest(redis_url, tmp_path, operator_key=SecretStr(OPERATOR)) as client:
        yield client


async def new_key(http: httpx.AsyncClient, role: str) -> dict[str, str]:
    answer = await http.post("/api/v1/keys", json={"name": "somebody", "role": role}, headers=bearing(OPERATOR))
    assert answer.status_code == 201
    key: dict[str, str] = answer.json()
    return key


def reached(path: str) -> str:
    return path.replace("{number}", "1").replace("{", "").replace("}", "")


@pytest.mark.slow
async def test_every_route_of_the_api_asks_for_a_key(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, operations in paths.items():
        for method, operation in operations.items():
            answer = await http.request(method, reached(path))
            if path in ("/livez", "/readyz", "/version", "/sign-in"):
                assert answer.status_code == 200
                assert "security" not in operation
                continue
            asked += 1
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == "not_authenticated"
            assert operation["security"] == [{"key": []}]
    assert asked >= 20


@pytest.mark.slow
async def test_a_viewer_reads_everything_and_changes_nothing(http: httpx.AsyncClient) -> None:
    viewer = bearing((await new_key(http, "viewer"))["key"])
    assert (await http.get("/api/v1/jobs", headers=viewer)).json() == {"jobs": [], "next": None}
    assert (await http.get("/metrics", headers=viewer)).status_code == 200
    looked = await http.post("/api/v1/jobs:validate", json={}, headers=viewer)  # makes nothing
    assert (looked.status_code, looked.json()["valid"]) == (200, False)
    for method, path in (
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/x/cancel"),
        ("DELETE", "/api/v1/agents/site-a"),
        ("DELETE", "/api/v1/agents/site-a:validate"),  # whatever a path ends with
        ("PATCH", "/api/v1/jobs/x:validate"),
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/join-tokens"),
        ("POST", "/api/v1/keys"),
    ):
        answer = await http.request(method, path, headers=viewer)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), path
        assert "the key is a viewer's" in answer.json()["detail"]


@pytest.mark.slow
async def test_an_operators_key_does_what_the_settings_key_does(http: httpx.AsyncClient) -> None:
    key = await new_key(http, "operator")
    operator = bearing(key["key"])
    posted = await http.post("/api/v1/jobs", json=job_document(), headers=operator)
    assert (posted.status_code, posted.json()["posted_by"]) == (201, f"somebody {key['id']}")
    assert (await http.post("/api/v1/join-tokens", json={"client": "a"}, headers=operator)).status_code == 201


async def test_a_revoked_key_is_refused_at_once(http: httpx.AsyncClient) -> None:
    key = await new_key(http, "viewer")
    assert (await http.get("/api/v1/agents", headers=bearing(key["key"]))).status_code == 200
    path = f"/api/v1/keys/{key['id']}"
    assert (await http.delete(path, headers=bearing(OPERATOR))).status_code == 204
    assert (await http.get("/api/v1/agents", headers=bearing(key["key"]))).status_code == 401
    assert (await http.delete(path, headers=bearing(OPERATOR))).json()["code"] == "credential_not_found"


@pytest.mark.parametrize("scheme", ["Bearer {}", "bearer  {}"])
async def test_the_scheme_of_the_header_may_be_written_either_way(http: httpx.AsyncClient, scheme: str) -> None:
    answer = await http.get("/api/v1/jobs", headers={"Authorization": scheme.format(OPERATOR)})
    assert answer.status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["another secret", "the digest", "cut", "longer", "basic", "empty", "not ascii"])
async def test_what_only_looks_like_a_key_is_refused(http: httpx.AsyncClient, kind: str) -> None:
    key = (await new_key(http, "operator"))["key"]
    text = {
        "another secret": f"Bearer {key[:13]}{'0' * 64}",
        "the digest": f"Bearer {digest_of(key)}",
        "cut": f"Bearer {key[:-1]}",
        "longer": f"Bearer {key}0",
        "basic": f"Basic {key}",
        "empty": "Bearer",
        "not ascii": f"Bearer {key}\u00e4",
    }[kind]
    answer = await http.get("/api/v1/jobs", headers={"Authorization": text.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert key not in answer.text


async def test_no_secret_is_kept_listed_or_logged(redis_url: str, tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with rest(redis_url, tmp_path, operator_key=SecretStr(OPERATOR)) as http:
            key = (await new_key(http, "viewer"))["key"]
            asked = await http.post("/api/v1/join-tokens", json={"client": "site-a"}, headers=bearing(OPERATOR))
            token = asked.json()["token"]
            lists = [
                (await http.get(f"/api/v1/{of}", headers=bearing(OPERATOR))).text for of in ("keys", "join-tokens")
            ]
    assert key[4:12] in lists[0]  # the lists show ids, not secrets
    assert token[4:12] in lists[1]
    with redis.Redis.from_url(redis_url, decode_responses=True) as store:
        kept = str([store.hgetall(name) for name in store.keys("*") if store.type(name) == "hash"])
    for secret in (key, token, OPERATOR):
        assert secret[-40:] not in kept + str(lists) + str(logged)
    assert digest_of(token) in kept


async def test_a_join_token_is_listed_and_revoked(http: httpx.AsyncClient) -> None:
    asked = await http.post("/api/v1/join-tokens", json={"client": "a", "valid_s": 60}, headers=bearing(OPERATOR))
    token = asked.json()
    (row,) = (await http.get("/api/v1/join-tokens", headers=bearing(OPERATOR))).json()["join_tokens"]
    assert row == {name: value for name, value in token.items() if name != "token"}
    assert (row["client"], row["used"], row["expired"]) == ("a", None, False)
    path = f"/api/v1/join-tokens/{token['id']}"
    assert (await http.delete(path, headers=bearing(OPERATOR))).status_code == 204
    assert (await http.delete(path, headers=bearing(OPERATOR))).status_code == 404


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", [{}, {"client": "../a"}, {"client": "a", "valid_s": 0}, {"client": "a", "valid_s": 1e9}]
)
async def test_a_join_token_needs_a_name_and_an_end(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await http.post("/api/v1/join-tokens", json=body, headers=bearing(OPERATOR))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_body_too_large_for_any_document_ends_the_request(http: httpx.AsyncClient) -> None:
    for path in ("/api/v1/agents", "/api/v1/jobs", "/api/v1/keys"):
        answer = await http.post(path, content=b" " * (2**20 + 1), headers=bearing(OPERATOR))
        assert answer.status_code == 413


async def test_on_loopback_without_an_operators_key_nobody_is_asked(redis_url: str, tmp_path: Path) -> None:
    async with rest(redis_url, tmp_path) as http:
        assert (await http.get("/api/v1/keys")).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "["}, 403),
    ],
)
async def test_where_nobody_is_asked_no_page_of_another_site_is_let_in(
    redis_url: str, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with rest(redis_url, tmp_path) as http:
        dashboard = {"Origin": f"http://127.0.0.1:{http.base_url.port}"}
        assert (await http.get("/api/v1/jobs", headers=dashboard)).status_code == 200
        assert (await http.get("/api/v1/jobs", headers=headers)).status_code == status


async def test_no_key_is_accepted_or_created_over_plaintext_beyond_this_machine(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "is_loopback", lambda host: False)  # nothing here listens beyond it
    async with rest(redis_url, tmp_path, insecure=True) as http:
        assert (await http.get("/api/v1/jobs")).status_code == 200
        sent = await http.get("/api/v1/jobs", headers=bearing(OPERATOR))
        wanted = await http.post("/api/v1/keys", json={"name": "a", "role": "viewer"})
        token = await http.post("/api/v1/join-tokens", json={"client": "a"})
    for answer in (sent, wanted, token):
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
        assert "revoke what you sent" in answer.json()["detail"]


async def test_a_key_has_its_share_of_requests_and_of_downloads(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_access, "MOST_DOWNLOADS", 0)
    key = SecretStr(OPERATOR)
    async with rest(redis_url, tmp_path, operator_key=key, max_requests_per_key=1) as http:
        job = (await http.post("/api/v1/jobs", json=job_document(), headers=bearing(OPERATOR))).json()["id"]
        download = await http.get(f"/api/v1/jobs/{job}/model", headers=bearing(OPERATOR))
        viewer = bearing((await new_key(http, "viewer"))["key"])
        async with http.stream("GET", f"/api/v1/jobs/{job}/events", headers=bearing(OPERATOR)) as events:
            await anext(events.aiter_text())
            refused = await http.get("/api/v1/jobs", headers=bearing(OPERATOR))
            assert (await http.get("/api/v1/jobs", headers=viewer)).status_code == 200  # another key's are its own
    for answer in (download, refused):
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "1")
    assert "downloads: " in download.json()["detail"]
    assert "max_requests_per_key" in refused.json()["detail"]
    assert OPERATOR not in refused.text


@pytest.mark.slow
async def test_a_stream_of_events_ends_when_its_key_is_revoked(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "RECHECK_S", 0.01)
    key = await new_key(http, "viewer")
    job = (await http.post("/api/v1/jobs", json=job_document(), headers=bearing(OPERATOR))).json()["id"]
    events = http.stream("GET", f"/api/v1/jobs/{job}/events", headers=bearing(key["key"]), timeout=60)
    async with events as answer:
        chunks = answer.aiter_text()
        while "job.status" not in await anext(chunks):
            pass
        await http.delete(f"/api/v1/keys/{key['id']}", headers=bearing(OPERATOR))
        with pytest.raises(httpx.TransportError):  # nothing happens to the job, and the stream is cut all the same
            _ = [chunk async for chunk in chunks]


async def test_what_changes_or_takes_something_is_audited(http: httpx.AsyncClient) -> None:
    key = await new_key(http, "viewer")
    viewer, operator = bearing(key["key"]), bearing(OPERATOR)
    await http.post("/api/v1/jobs?dry_run=true", headers=viewer, content=b"{}")
    await http.get("/api/v1/jobs", headers=viewer)
    await http.get("/api/v1/jobs/x/model?version=best", headers=viewer)
    with capture_logs() as logged:
        await http.post("/api/v1/jobs/%1b[31mx/pause", headers=operator)
    await http.delete("/api/v1/agents/a", headers=bearing("fgk_01234567_" + "0" * 64))
    told = (await http.get("/api/v1/audit", headers=operator)).json()
    rows = [(each["name"], each["key"], each["method"], each["path"], each["outcome"]) for each in told["entries"]]
    assert rows == [
        ("operator", "settings", "POST", "/api/v1/jobs/%1b[31mx/pause", "404"),
        ("somebody", key["id"], "GET", "/api/v1/jobs/x/model?version=best", "404"),
        ("somebody", key["id"], "POST", "/api/v1/jobs?dry_run=true", "403"),
        ("operator", "settings", "POST", "/api/v1/keys", "201"),
    ]
    assert all(each["address"] == "127.0.0.1" and each["sent_bytes"] > 0 for each in told["entries"])
    (line,) = [row for row in logged if row["event"] == "request_audited"]
    assert (line["key"], line["outcome"]) == ("settings", "404")
    first = (await http.get("/api/v1/audit?limit=3", headers=operator)).json()
    rest_of = (await http.get(f"/api/v1/audit?limit=3&after={first['next']}", headers=operator)).json()
    assert first["entries"] + rest_of["entries"] == told["entries"]
    assert rest_of["next"] is None
    (stranger,) = (await http.get("/api/v1/audit?of=strangers", headers=operator)).json()["entries"]
    assert (stranger["key"], stranger["name"], stranger["outcome"]) == ("01234567", "", "401")
    assert (await http.get("/api/v1/audit", headers=viewer)).status_code == 403


async def test_the_audit_is_bounded_and_strangers_push_nobody_out(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    trail = AuditTrail(connection, most=100)
    await trail.add(Entry("k", "known", "operator", "::1", "POST", "/", "201", 0), Whose.PEOPLE)
    for number in range(500):
        await trail.add(Entry("", "", "", "::1", "POST", f"/{number}", "401", 0), Whose.STRANGERS)
    strangers = await trail.page(None, 1000, Whose.STRANGERS)
    assert strangers[0].entry.path == "/499"
    assert 100 <= len(strangers) < 300
    assert [each.entry.name for each in await trail.page(None, 10, Whose.PEOPLE)] == ["known"]
    await connection.close()
