"""Whether this coordinator can do its work: each thing that it needs is asked by itself, and quickly."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from coordinator.doors.oidc.provider import Provider
from coordinator.state.errors import StateUnavailable
from coordinator.store.binding import Binding, NotBound
from coordinator.store.blob_store import BlobsAway, BlobStore
from coordinator.store.redis_address import RedisAddress
from coordinator.store.redis_client import key_prefix
from coordinator.store.redis_health import TIMEOUT_S, client, look
from fedgalore.process.tls import expiry

SHARED_S = 1.0  # so long all who ask hear the same


class Check(BaseModel):
    ok: bool
    detail: str


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check]
    warnings: list[str] = Field(
        description="What works, but may lose data or is not whole, such as a provider that does not answer"
    )


_LEAVES = Check(ok=False, detail="was asked to stop, and ends what is under way; call another replica")


class Probe:
    """Asks Redis over a separate connection, so that a busy pool does not look like a dead server."""

    def __init__(
        self,
        redis_url: str,
        blobs: BlobStore,
        binding: Binding,
        certificate: Path | None = None,
        provider: Provider | None = None,
    ) -> None:
        self._address = RedisAddress.parse(redis_url)
        self._redis = client(self._address)
        self._blobs = blobs
        self._binding = binding
        self._certificate = certificate
        self._provider = provider
        self._turn = asyncio.Lock()
        self._last: tuple[float, Readiness] | None = None  # when it was found, by the monotonic clock
        self._leaves = False

    def leave(self) -> None:
        """From now on it says that it is not ready: nobody new is to be sent here."""
        self._leaves = True

    async def readiness(self) -> Readiness:
        if self._leaves:
            return Readiness(ready=False, checks={"process": _LEAVES}, warnings=[])
        async with self._turn:
            if self._last is None or time.monotonic() - self._last[0] > SHARED_S:
                found = await self._ask()
                self._last = time.monotonic(), found
            return self._last[1]

    async def _ask(self) -> Readiness:
        warnings: list[str] = []
        checks = {"redis": await self._check_redis(warnings), "blobs": await self._check_blobs()}
        if all(check.ok for check in checks.values()):  # else there is nothing to compare
            checks["binding"] = await self._check_binding(warnings)
            checks["state"] = await self._check_state()
        if self._certificate is not None and (odd := await asyncio.to_thread(_odd, self._certificate)):
            warnings.append(f"tls_cert: {odd}")
        if self._provider is not None and self._provider.problem:  # API keys and agents are let in all the same
            warnings.append(self._provider.problem)
        return Readiness(ready=all(check.ok for check in checks.values()), checks=checks, warnings=warnings)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _check_redis(self, warnings: list[str]) -> Check:
        health = await look(self._redis, self._address)
        warnings += health.warnings
        return Check(ok=health.ok, detail=health.detail)

    async def _check_blobs(self) -> Check:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.to_thread(self._blobs.check)
        except BlobsAway as error:
            return Check(ok=False, detail=str(error))
        except (OSError, TimeoutError) as error:
            return Check(ok=False, detail=f"cannot be written ({error or 'too slow'}); check blob_dir and its disk")
        return Check(ok=True, detail="writable")

    async def _check_binding(self, warnings: list[str]) -> Check:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                bound = await self._binding.check()
        except (NotBound, StateUnavailable, OSError, TimeoutError) as error:
            return Check(ok=False, detail=str(error) or "no answer in time")
        if bound.warning:
            warnings.append(f"blobs: {bound.warning}")
        return Check(ok=True, detail=f"Redis and {self._blobs.setting} belong together")

    async def _check_state(self) -> Check:
        """What the collector found, which looks at the state every few seconds."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                refusal = await self._redis.get(f"{key_prefix(self._address)}:refusal")
        except (RedisError, OSError, TimeoutError) as error:
            return Check(ok=False, detail=str(error) or "no answer in time")
        return Check(ok=not refusal, detail=str(refusal or "no key is known to be missing"))


def _odd(certificate: Path) -> str | None:
    try:
        return expiry(certificate)
    except (OSError, ValueError) as error:
        return f"{certificate} cannot be read ({error})"
