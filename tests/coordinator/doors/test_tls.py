"""TLS at both doors, and certificates that name their agents."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from coordinator.doors.doorkeeper import Access
from coordinator.doors.grpc.server import serve
from coordinator.doors.opening import Tls
from fedgalore_cli.main import app
from protos import federation_pb2 as pb
from protos import federation_pb2_grpc
from tests.coordinator.doors.access import CALLS, OPERATOR, as_agent, bearing, enrol, rest
from tests.coordinator.doors.grpc.door import Code, House, failing, open_house


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path, Access.SECURED) as house:
        yield house


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
    server = await serve(house.engine.agents, house.blobs, house.doorkeeper, house.trail, "127.0.0.1", 0, tls)
    other = tmp_path / "other"
    CliRunner().invoke(app, ["certs", "--dir", str(other), "--agent", "site-a", "--host", "127.0.0.1"])
    try:
        async with channel(server.port, certs, "site-a") as stub:
            await stub.Register(CALLS["Register"], metadata=as_agent())
            async with failing(Code.UNAUTHENTICATED):  # a certificate is not enough
                await stub.Register(CALLS["Register"])
        async with channel(server.port, certs, "site-b") as stub:
            async with failing(Code.PERMISSION_DENIED, "site-b", "not for 'site-a'"):
                await stub.Register(CALLS["Register"], metadata=as_agent())
            async with failing(Code.PERMISSION_DENIED, "site-b"):
                await stub.Enrol(pb.EnrolRequest(client="site-a", join_token="x", key_sha256="0" * 64))
        for strangers_line in (
            channel(server.port, certs),  # shows no certificate
            channel(server.port, other, "site-a", trust=certs / "ca.pem"),  # its certificate is of another CA
            channel(server.port, certs, "site-a", trust=other / "ca.pem"),  # does not know the coordinator's CA
            plaintext(server.port),
        ):
            async with strangers_line as stub, failing(Code.UNAVAILABLE):
                await stub.Register(CALLS["Register"], metadata=as_agent(), timeout=10)
    finally:
        await server.stop(0)


async def test_without_a_client_ca_an_agent_needs_its_key_alone(house: House, certs: Path) -> None:
    await enrol(house)
    tls = Tls(certs / "coordinator.pem", certs / "coordinator.key", None)
    server = await serve(house.engine.agents, house.blobs, house.doorkeeper, house.trail, "127.0.0.1", 0, tls)
    try:
        async with channel(server.port, certs) as stub:
            await stub.Register(CALLS["Register"], metadata=as_agent())
            async with failing(Code.UNAUTHENTICATED):
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
