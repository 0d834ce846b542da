"""People of an identity provider at the REST door: roles, keys that rotate, a provider that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from coordinator.doors import watched
from coordinator.doors.oidc import provider as oidc
from coordinator.doors.rest import readiness
from tests.builders import job_document
from tests.coordinator.doors.access import OPERATOR, bearing, rest
from tests.oidc_provider import CLIENT, OPERATORS, VIEWERS, OidcProvider

pytestmark = pytest.mark.slow
GROUPS = {OPERATORS: {"role": "operator", "team": "*"}, VIEWERS: {"role": "viewer", "team": "*"}}


def settings(provider: OidcProvider) -> dict[str, Any]:
    return {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT,
        "oidc_groups": GROUPS,
        "operator_key": SecretStr(OPERATOR),
    }


@pytest.fixture
async def http(redis_url: str, tmp_path: Path, provider: OidcProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(redis_url, tmp_path, **settings(provider)) as client:
        yield client


async def status(http: httpx.AsyncClient, token: str, path: str = "/api/v1/jobs") -> int:
    return (await http.get(path, headers=bearing(token))).status_code


async def audited(http: httpx.AsyncClient, count: int, of: str = "people") -> list[dict[str, Any]]:
    """The audit, once it has so many entries: an answer may be there before its entry."""
    async with asyncio.timeout(10):
        while True:
            audit = await http.get("/api/v1/audit", params={"of": of}, headers=bearing(OPERATOR))
            entries: list[dict[str, Any]] = audit.json()["entries"]
            if len(entries) >= count:
                return entries
            await asyncio.sleep(0.02)


async def test_groups_are_roles_and_the_audit_has_names(http: httpx.AsyncClient, provider: OidcProvider) -> None:
    ada, bob = provider.token("ada", email="ada@example.org"), provider.token("bob")
    posted = await http.post("/api/v1/jobs", json=job_document(), headers=bearing(ada))
    assert (posted.status_code, posted.json()["posted_by"]) == (201, "ada@example.org oidc:ada")
    assert await status(http, bob) == 200
    refused = await http.post(f"/api/v1/jobs/{posted.json()['id']}/cancel", headers=bearing(bob))
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert "the token is a viewer's" in refused.json()["detail"]
    assert {(each["name"], each["key"], each["role"], each["outcome"]) for each in await audited(http, 2)} == {
        ("ada@example.org", "oidc:ada", "operator", "201"),
        ("bob", "oidc:bob", "viewer", "403"),
    }
    assert provider.asked["/keys"] == 1


async def test_keys_are_taken_beside_tokens(http: httpx.AsyncClient) -> None:
    made = await http.post("/api/v1/keys", json={"name": "ci", "role": "viewer"}, headers=bearing(OPERATOR))
    assert await status(http, made.json()["key"]) == 200
    nobody = await http.get("/api/v1/jobs")
    assert nobody.status_code == 401
    assert "or sign in by `fedgalore login`" in nobody.json()["detail"]


async def test_who_is_in_no_group_hears_which_there_are(http: httpx.AsyncClient, provider: OidcProvider) -> None:
    answer = await http.get("/api/v1/jobs", headers=bearing(provider.token("eve", groups=["staff"])))
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert "eve is in no group that may do anything here (groups: 'staff')" in answer.json()["detail"]


async def test_a_viewer_of_all_who_is_an_operator_in_a_team(
    redis_url: str, tmp_path: Path, provider: OidcProvider
) -> None:
    both = GROUPS | {"lungs": {"role": "operator", "team": "radiology"}}
    async with rest(redis_url, tmp_path, **settings(provider) | {"oidc_groups": both}) as http:
        person = bearing(provider.token("eve", groups=[VIEWERS, "lungs"]))
        nobodys = (await http.post("/api/v1/jobs", json=job_document(), headers=bearing(OPERATOR))).json()["id"]
        asked = {**person, "Idempotency-Key": "nightly"}
        own = (await http.post("/api/v1/jobs", json=job_document(), headers=asked)).json()
        assert own["team"] == "radiology"
        looked = await http.post("/api/v1/jobs:validate", json=job_document(), headers=asked)
        assert looked.json()["job"] == own["id"]  # of the team that a post would take
        assert len((await http.get("/api/v1/jobs", headers=person)).json()["jobs"]) == 2
        refused = await http.post(f"/api/v1/jobs/{nobodys}/cancel", headers=person)
        assert refused.status_code == 403
        assert "the token is a viewer's in what is of no team; ask an operator" in refused.json()["detail"]
        assert (await http.get("/api/v1/keys", headers=person)).status_code == 403


async def test_what_is_refused_is_written_down(http: httpx.AsyncClient, provider: OidcProvider) -> None:
    wrong: list[dict[str, Any]] = [{"exp": 1}, {"aud": "other"}, {"iss": "http://127.0.0.1:1"}, {"sub": "a\x1b[2J"}]
    for claims in wrong:
        answer = await http.post("/api/v1/jobs", json={}, headers=bearing(provider.token(**claims)))
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    entries = await audited(http, len(wrong), "strangers")
    assert [(each["path"], each["outcome"], each["name"]) for each in entries] == [("/api/v1/jobs", "401", "")] * 4


async def test_a_new_key_is_asked_for_and_what_the_old_one_signed_is_void(
    http: httpx.AsyncClient, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = provider.token()
    assert await status(http, before) == 200
    provider.rotate("second")
    after = provider.token()
    assert await status(http, after) == 401  # it was asked a moment ago
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert await status(http, after) == 200
    assert await status(http, before) == 401  # also of the tokens that were seen before


async def test_the_dashboard_may_ask_where_tokens_are_given_and_nowhere_else(
    http: httpx.AsyncClient, provider: OidcProvider
) -> None:
    policy = (await http.get("/")).headers["content-security-policy"]
    assert policy.endswith(f"; connect-src 'self' {provider.issuer}")
    assert "script-src 'self';" in policy
    place = (await http.get("/sign-in")).json()
    assert (place["issuer"], place["token_endpoint"]) == (provider.issuer, f"{provider.issuer}/token")


async def test_unknown_keys_make_few_requests(http: httpx.AsyncClient, provider: OidcProvider) -> None:
    provider.rotate("second")
    found = await asyncio.gather(*(status(http, provider.token(sub=f"user-{number}")) for number in range(20)))
    assert set(found) == {401}
    assert provider.asked["/keys"] <= 2


async def test_known_keys_are_good_while_the_provider_is_away(
    http: httpx.AsyncClient, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token()
    provider.stop()
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert await status(http, token) == 200
    provider.rotate("second")
    assert await status(http, provider.token()) == 503  # nobody can tell
    monkeypatch.setattr(readiness, "SHARED_S", 0.0)
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    (warning,) = [each for each in ready.json()["warnings"] if "oidc_issuer" in each]
    assert f"oidc_issuer: {provider.issuer} does not answer at" in warning


async def test_a_wrong_provider_is_a_sentence_and_keeps_no_key_out(
    redis_url: str, tmp_path: Path, provider: OidcProvider
) -> None:
    token = provider.token()
    provider.stop()
    async with rest(redis_url, tmp_path, **settings(provider)) as http:
        answer = await http.get("/api/v1/jobs", headers=bearing(token))
        assert (answer.status_code, answer.json()["code"]) == (503, "provider_away")
        assert f"oidc_issuer: {provider.issuer} does not answer at" in answer.json()["detail"]
        assert await status(http, OPERATOR) == 200


async def test_a_stream_ends_with_its_token(
    redis_url: str, tmp_path: Path, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "RECHECK_S", 0.05)
    monkeypatch.setattr("coordinator.doors.oidc.tokens.SKEW_S", 0)
    async with rest(redis_url, tmp_path, **settings(provider)) as http:
        posted = await http.post("/api/v1/jobs", json=job_document(), headers=bearing(OPERATOR))
        provider.expires_s = 2
        path = f"/api/v1/jobs/{posted.json()['id']}/events"
        async with asyncio.timeout(10), http.stream("GET", path, headers=bearing(provider.token())) as stream:
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in stream.aiter_lines():
                    pass
