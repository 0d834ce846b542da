"""Whether this coordinator can do its work: each thing that it needs is asked by itself, and quickly."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError

from coordinator.state.errors import StateUnavailable
from coordinator.store.binding import Binding, NotBound
from coordinator.store.blob_store import BlobStore
from fedgalore.process.tls import expiry

TIMEOUT_S = 3.0


class Check(BaseModel):
    ok: bool
    detail: str


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check]
    warnings: list[str] = Field(description="What works but may lose data")


class Probe:
    """Asks Redis over a separate connection, so that a busy pool does not look like a dead server."""

    def __init__(self, redis_url: str, blobs: BlobStore, binding: Binding, certificate: Path | None = None) -> None:
        self._redis: Redis = Redis.from_url(
            redis_url, decode_responses=True, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        self._blobs = blobs
        self._binding = binding
        self._certificate = certificate

    async def readiness(self) -> Readiness:
        warnings: list[str] = []
        checks = {"redis": await self._check_redis(warnings), "blobs": await self._check_blobs()}
        if all(check.ok for check in checks.values()):  # else there is nothing to compare
            checks["binding"] = await self._check_binding(warnings)
        if self._certificate is not None and (odd := await asyncio.to_thread(_odd, self._certificate)):
            warnings.append(f"tls_cert: {odd}")
        return Readiness(ready=all(check.ok for check in checks.values()), checks=checks, warnings=warnings)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _check_redis(self, warnings: list[str]) -> Check:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            return Check(
                ok=False, detail=f"no answer ({error or type(error).__name__}); check redis_url and the server"
            )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                configured = await self._redis.config_get("append*")
        except (RedisError, OSError, TimeoutError):
            warnings.append(
                "redis: CONFIG GET is not allowed, so nobody knows whether commits survive a crash; allow it, or set "
                "appendonly yes and appendfsync always"
            )
            return Check(ok=True, detail="answers; durability unknown")
        durability = ", ".join(f"{name} {configured.get(name)}" for name in ("appendonly", "appendfsync"))
        if (configured.get("appendonly"), configured.get("appendfsync")) != ("yes", "always"):
            warnings.append(
                f"redis: has {durability}; a crash may lose commits; set appendonly yes and appendfsync always"
            )
        return Check(ok=True, detail=f"answers; {durability}")

    async def _check_blobs(self) -> Check:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.to_thread(self._blobs.check)
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
        return Check(ok=True, detail="Redis and blob_dir belong together")


def _odd(certificate: Path) -> str | None:
    try:
        return expiry(certificate)
    except (OSError, ValueError) as error:
        return f"{certificate} cannot be read ({error})"
