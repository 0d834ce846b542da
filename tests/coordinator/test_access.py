"""Who comes in at both doors: keys, roles, join tokens, certificates."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cli.main import app
from coordinator import doors
from coordinator.credentials import digest_of
from coordinator.doorkeeper import Access
from coordinator.doors import Tls
from coordinator.grpc_server import serve
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from fedgalore import PROTOCOL_VERSION
from protos import federation_pb2 as pb
from protos import federation_pb2_grpc
from tests.builders import job_document
from tests.coordinator.door import Code, House, header, open_house, told
from tests.coordinator.updates import ref

OPERATOR = "an-operators-key-of-more-than-32-characters"
KEY = "fga_" + "5" * 64  # of site-a


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def as_agent(key: str = KEY) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


# --- REST ------------------------------------------------------------------------------------------------------------


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


@pytest.fixture
async def http(redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, of a coordinator that asks for one."""
    async with rest(redis_url, tmp_path, operator_key=SecretStr(OPERATOR)) as client:
        yield client


async def made(http: httpx.AsyncClient, role: str) -> dict[str, str]:
    answer = await http.post("/api/v1/keys", json={"name": "somebody", "role": role}, headers=bearing(OPERATOR))
    assert answer.status_code == 201
    found: dict[str, str] = answer.json()
    return found


def reached(path: str) -> str:
    return path.replace("{number}", "1").replace("{", "").replace("}", "")


async def test_every_route_of_the_api_asks_for_a_key(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, operations in paths.items():
        for method, operation in operations.items():
            answer = await http.request(method, reached(path))
            if path in ("/livez", "/readyz", "/version"):
                assert answer.status_code == 200
                assert "security" not in operation
                continue
            asked += 1
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == "not_authenticated"
            assert operation["security"] == [{"key": []}]
    assert asked >= 20


async def test_a_viewer_reads_everything_and_changes_nothing(http: httpx.AsyncClient) -> None:
    viewer = bearing((await made(http, "viewer"))["key"])
    assert (await http.get("/api/v1/jobs", headers=viewer)).json() == {"jobs": [], "next": None}
    assert (await http.get("/metrics", headers=viewer)).status_code == 200
    for method, path in (
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/x/cancel"),
        ("DELETE", "/api/v1/agents/site-a"),
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/join-tokens"),
        ("POST", "/api/v1/keys"),
    ):
        answer = await http.request(method, path, headers=viewer)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), path
        assert "this key is a viewer's" in answer.json()["detail"]


async def test_an_operators_key_does_what_the_settings_key_does(http: httpx.AsyncClient) -> None:
    operator = bearing((await made(http, "operator"))["key"])
    assert (await http.post("/api/v1/jobs", json=job_document(), headers=operator)).status_code == 201
    assert (await http.post("/api/v1/join-tokens", json={"client": "a"}, headers=operator)).status_code == 201


async def test_a_revoked_key_is_refused_at_once(http: httpx.AsyncClient) -> None:
    key = await made(http, "viewer")
    assert (await http.get("/api/v1/agents", headers=bearing(key["key"]))).status_code == 200
    path = f"/api/v1/keys/{key['id']}"
    assert (await http.delete(path, headers=bearing(OPERATOR))).status_code == 204
    assert (await http.get("/api/v1/agents", headers=bearing(key["key"]))).status_code == 401
    assert (await http.delete(path, headers=bearing(OPERATOR))).json()["code"] == "credential_not_found"


@pytest.mark.parametrize("scheme", ["Bearer {}", "bearer  {}"])
async def test_the_scheme_of_the_header_may_be_written_either_way(http: httpx.AsyncClient, scheme: str) -> None:
    answer = await http.get("/api/v1/jobs", headers={"Authorization": scheme.format(OPERATOR)})
    assert answer.status_code == 200


@pytest.mark.parametrize("kind", ["another secret", "the digest", "cut", "longer", "basic", "empty", "not ascii"])
async def test_what_only_looks_like_a_key_is_refused(http: httpx.AsyncClient, kind: str) -> None:
    key = (await made(http, "operator"))["key"]
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
            key = (await made(http, "viewer"))["key"]
            asked = await http.post("/api/v1/join-tokens", json={"client": "site-a"}, headers=bearing(OPERATOR))
            token = asked.json()["token"]
            lists = [
                (await http.get(f"/api/v1/{of}", headers=bearing(OPERATOR))).text for of in ("keys", "join-tokens")
            ]
    assert key[4:12] in lists[0]  # the ids are
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
        own = {"Origin": f"http://127.0.0.1:{http.base_url.port}"}
        assert (await http.get("/api/v1/jobs", headers=own)).status_code == 200
        assert (await http.get("/api/v1/jobs", headers=headers)).status_code == status


async def test_no_key_is_taken_or_made_over_plaintext_beyond_this_machine(
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


# --- gRPC ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path, Access.SECURED) as house:
        yield house


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
    "QueryUpload": pb.QueryUploadRequest(
        client="site-a", job_id="job-1", round=1, blob=pb.BlobRef(sha256="0" * 64, size_bytes=1)
    ),
    "ReportProgress": pb.ReportProgressRequest(client="site-a", job_id="job-1", round=1, stage="train"),
}


async def call(house: House, method: str, **arguments: Any) -> None:
    request = CALLS[method]
    answer = getattr(house.stub, method)(iter(request) if isinstance(request, list) else request, **arguments)
    if method == "DownloadBlob":
        async for _ in answer:
            pass
    else:
        await answer


async def status(house: House, method: str) -> grpc.StatusCode:
    """What becomes of site-a's call, in the job's terms."""
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
        async with told(Code.UNAUTHENTICATED, "site-a"):
            await call(house, method, metadata=metadata)
    await enrol(house)
    for metadata in ((), as_agent(other), as_agent(digest_of(KEY))):
        async with told(Code.UNAUTHENTICATED, "site-a"):
            await call(house, method, metadata=metadata)
    await call(house, "Register", metadata=as_agent())
    assert await status(house, method) is not Code.UNAUTHENTICATED


async def test_a_join_token_is_good_for_one_client_once(house: House) -> None:
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    async with told(Code.PERMISSION_DENIED, "another client", "fedgalore agents invite site-b"):
        await enrol(house, "site-b", token=token)
    await enrol(house, token=token)
    await enrol(house, token=token)  # the same agent after a restart
    async with told(Code.PERMISSION_DENIED, "used already"):
        await enrol(house, key="fga_" + "7" * 64, token=token)
    await call(house, "Register", metadata=as_agent())


async def test_two_who_race_with_one_token_do_not_both_come_in(house: House) -> None:
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    attempts = [enrol(house, key=f"fga_{number:064}", token=token) for number in range(8)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert outcomes.count(None) == 1


async def test_an_expired_unknown_or_revoked_token_is_refused(house: House) -> None:
    _, old = await house.doorkeeper.create_join_token("site-a", -1)
    async with told(Code.PERMISSION_DENIED, "expired"):
        await enrol(house, token=old)
    gone, text = await house.doorkeeper.create_join_token("site-a", 60)
    await house.doorkeeper.revoke_join_token(gone.id)
    for token in (text, "nonsense", f"fgj_{gone.id}_{'0' * 64}"):
        async with told(Code.PERMISSION_DENIED, "not known"):
            await enrol(house, token=token)
    async with told(Code.INVALID_ARGUMENT, "key_sha256"):
        await house.stub.Enrol(pb.EnrolRequest(client="site-a", join_token="x", key_sha256="short"))


async def test_another_token_replaces_the_key_of_a_client_that_lost_it(house: House) -> None:
    await enrol(house)
    new = "fga_" + "8" * 64
    await enrol(house, key=new)
    async with told(Code.UNAUTHENTICATED):
        await call(house, "Register", metadata=as_agent())
    await call(house, "Register", metadata=as_agent(new))


async def test_a_revoked_client_is_out_and_its_tokens_are_void(house: House) -> None:
    await enrol(house)
    await call(house, "Register", metadata=as_agent())
    _, token = await house.doorkeeper.create_join_token("site-a", 60)
    assert await house.doorkeeper.revoke_agent("site-a")
    async with told(Code.UNAUTHENTICATED):
        await call(house, "NextTask", metadata=as_agent())
    async with told(Code.PERMISSION_DENIED):
        await enrol(house, token=token)
    assert not await house.doorkeeper.revoke_agent("site-a")


async def test_an_update_of_a_client_that_is_revoked_while_it_sends_does_not_count(
    house: House, tmp_path: Path
) -> None:
    for client, key in (("site-a", KEY), ("site-b", "fga_" + "6" * 64)):
        await enrol(house, client, key)
        request = pb.RegisterRequest(
            client=client, protocol_version=PROTOCOL_VERSION, software_version="1", datasets={"reviews": 10}
        )
        await house.stub.Register(request, metadata=as_agent(key))
    job = await house.job()
    await house.engine.tick(job.id)
    await house.stub.NextTask(pb.NextTaskRequest(client="site-a"), metadata=as_agent())
    job = await house.engine.get(job.id)
    sample = house.sample(job)
    content = sample.bytes_in(tmp_path)
    sending = house.stub.SubmitUpdate(metadata=as_agent())
    await sending.write(header(sample, ref(content)))
    await sending.write(pb.SubmitUpdateRequest(chunk=content[:100]))
    await house.doorkeeper.revoke_agent("site-a")
    async with told(Code.UNAUTHENTICATED):
        await sending.write(pb.SubmitUpdateRequest(chunk=content[100:]))
        await sending.done_writing()
        await sending
    assert await house.engine.receipt(job.id, 1, "site-a") is None


async def test_health_and_reflection_ask_nobody(house: House) -> None:
    answer = await health_pb2_grpc.HealthStub(house.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    names = ["--host", "localhost", "--host", "127.0.0.1", "--agent", "site-a", "--agent", "site-b"]
    assert CliRunner().invoke(app, ["certs", "--dir", str(folder), *names]).exit_code == 0
    return folder


@asynccontextmanager
async def channel(
    port: int, certs: Path, agent: str | None = None, trust: Path | None = None
) -> AsyncIterator[federation_pb2_grpc.FederationStub]:
    pair = [(certs / f"agent-{agent}.{end}").read_bytes() for end in ("key", "pem")] if agent else [None, None]
    credentials = grpc.ssl_channel_credentials((trust or certs / "ca.pem").read_bytes(), *pair)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as line:
        yield federation_pb2_grpc.FederationStub(line)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def plaintext(port: int) -> AsyncIterator[federation_pb2_grpc.FederationStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as line:
        yield federation_pb2_grpc.FederationStub(line)  # type: ignore[no-untyped-call]


async def test_agents_show_certificates_that_name_them(house: House, certs: Path, tmp_path: Path) -> None:
    await enrol(house)
    tls = Tls(certs / "coordinator.pem", certs / "coordinator.key", certs / "ca.pem")
    server = await serve(house.engine, house.blobs, house.doorkeeper, "127.0.0.1", 0, tls)
    other = tmp_path / "other"
    CliRunner().invoke(app, ["certs", "--dir", str(other), "--agent", "site-a", "--host", "127.0.0.1"])
    try:
        async with channel(server.port, certs, "site-a") as stub:
            await stub.Register(CALLS["Register"], metadata=as_agent())
            async with told(Code.UNAUTHENTICATED):  # a certificate is not enough
                await stub.Register(CALLS["Register"])
        async with channel(server.port, certs, "site-b") as stub:
            async with told(Code.PERMISSION_DENIED, "site-b", "not for 'site-a'"):
                await stub.Register(CALLS["Register"], metadata=as_agent())
            async with told(Code.PERMISSION_DENIED, "site-b"):
                await stub.Enrol(pb.EnrolRequest(client="site-a", join_token="x", key_sha256="0" * 64))
        for strangers_line in (
            channel(server.port, certs),  # shows no certificate
            channel(server.port, other, "site-a", trust=certs / "ca.pem"),  # one of another CA
            channel(server.port, certs, "site-a", trust=other / "ca.pem"),  # does not know the coordinator's CA
            plaintext(server.port),
        ):
            async with strangers_line as stub, told(Code.UNAVAILABLE):
                await stub.Register(CALLS["Register"], metadata=as_agent(), timeout=10)
    finally:
        await server.stop(0)


async def test_without_a_client_ca_an_agent_needs_its_key_alone(house: House, certs: Path) -> None:
    await enrol(house)
    tls = Tls(certs / "coordinator.pem", certs / "coordinator.key", None)
    server = await serve(house.engine, house.blobs, house.doorkeeper, "127.0.0.1", 0, tls)
    try:
        async with channel(server.port, certs) as stub:
            await stub.Register(CALLS["Register"], metadata=as_agent())
            async with told(Code.UNAUTHENTICATED):
                await stub.Register(CALLS["Register"])
    finally:
        await server.stop(0)


async def test_rest_speaks_tls_and_nothing_else(redis_url: str, tmp_path: Path, certs: Path) -> None:
    files = {"tls_cert": certs / "coordinator.pem", "tls_key": certs / "coordinator.key", "client_ca": certs / "ca.pem"}
    async with rest(redis_url, tmp_path, operator_key=SecretStr(OPERATOR), **files) as plain:
        url = f"https://127.0.0.1:{plain.base_url.port}"
        trust = ssl.create_default_context(cafile=certs / "ca.pem")
        async with httpx.AsyncClient(base_url=url, verify=trust, headers=bearing(OPERATOR)) as http:
            assert (await http.get("/api/v1/jobs")).status_code == 200
        with pytest.raises(httpx.TransportError):
            await plain.get("/livez")
        async with httpx.AsyncClient(base_url=url) as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.get("/livez")
