"""What a coordinator needs on this machine, by its settings: Redis, disk, ports, credentials."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from fedgalore.process.settings import SettingsError
from fedgalore_cli.doctor.finding import Finding, Findings, fail, ok, warn
from fedgalore_cli.doctor.machine import certificate, disk

if TYPE_CHECKING:
    from coordinator.settings import CoordinatorSettings

PART = "'fedgalore[coordinator]'"
ACCESS = {
    "OPEN": "open to this machine alone; nobody is asked for a key",
    "SECURED": "everybody is asked for credentials",
    "PLAINTEXT": "open to the network in plaintext, without keys; unset insecure, and give a certificate",
}


def coordinator(config: Path | None) -> Findings:
    """By the settings of the file and of FEDGALORE_* variables."""
    try:
        import fastapi  # noqa: F401  # what only a coordinator has
        import redis  # noqa: F401

        from coordinator.doors.opening import doors
        from coordinator.settings import load
    except ModuleNotFoundError as error:
        yield ok("coordinator", f"cannot run here without {error.name}; pip install {PART} brings it")
        return
    try:
        settings = load(config)
    except SettingsError as error:
        yield from (fail("settings", line) for line in str(error).splitlines())
        return
    yield from _redis(settings)
    yield disk("blob_dir", settings.blob_dir)
    if settings.blobs is not None:
        yield _bucket(settings.blobs)
    yield from _ports(settings)
    try:
        opened = doors(settings)
    except SettingsError as error:
        yield fail("doors", str(error))
        return
    yield (warn if opened.access.name == "PLAINTEXT" else ok)("doors", ACCESS[opened.access.name])
    if opened.expected is not None:
        yield _provider(settings, opened.expected.issuer)
    for name in ("tls_cert", "client_ca", "oidc_ca"):
        if (file := getattr(settings, name)) is not None:
            yield certificate(name, file)


def _bucket(url: str) -> Finding:
    from coordinator.store.bucket import PROBE_S, Bucket

    try:
        Bucket(url, PROBE_S).check()
    except OSError as error:
        return fail("blobs", str(error))
    return ok("blobs", f"{url} can be written, and keeps what must not be overwritten")


def _redis(settings: CoordinatorSettings) -> Findings:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from coordinator.store.redis_address import RedisAddress
    from coordinator.store.redis_health import Health, client, look

    async def health() -> Health:
        address = RedisAddress.parse(settings.redis_url)
        server = client(address, retry=Retry(NoBackoff(), 0))
        try:
            return await look(server, address)
        finally:
            await server.aclose()

    found = asyncio.run(health())
    yield ok("redis", found.detail) if found.ok else fail("redis", found.detail)
    yield from (warn("redis", words.removeprefix("redis: ")) for words in found.warnings)


def _provider(settings: CoordinatorSettings, issuer: str) -> Finding:
    """Whether the identity provider answers, and publishes keys."""
    from coordinator.doors.oidc.provider import Provider

    async def look() -> Provider:
        async with contextlib.aclosing(Provider(issuer, settings.oidc_ca)) as provider:
            await provider.renew()
        return provider

    try:
        provider = asyncio.run(look())
    except SettingsError as error:
        return fail("oidc_issuer", str(error))
    if provider.found is None:
        return fail("oidc_issuer", str(provider.problem))
    return ok("oidc_issuer", f"{issuer} answers, and signs with {len(provider.found.keys.keys)} keys")


def _ports(settings: CoordinatorSettings) -> Findings:
    ours = _is_coordinator(settings.rest_host, settings.rest_port)
    for name, host, port in (
        ("rest_port", settings.rest_host, settings.rest_port),
        ("grpc_port", settings.grpc_host, settings.grpc_port),
    ):
        yield _port(name, host, port, ours)


def _port(name: str, host: str, port: int, ours: bool) -> Finding:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        if ours:
            return ok(name, f"{host}:{port} is held by a coordinator that runs")
        variable = f"FEDGALORE_{name.upper()}"
        return fail(name, f"{host}:{port} cannot be listened on ({error.strerror}); free it, or set {variable}")
    return ok(name, f"{host}:{port} is free")


def _is_coordinator(host: str, port: int) -> bool:
    """Whether one listens there already, over TLS or without."""
    import httpx

    for scheme in ("http", "https"):
        try:
            answer = httpx.get(f"{scheme}://{host}:{port}/livez", timeout=3, verify=False, trust_env=False)
            if answer.is_success and answer.json() == {"live": True}:
                return True
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            continue
    return False
