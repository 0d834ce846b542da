"""Whether this coordinator can do its work: each thing that it needs is asked by itself, and quickly."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError

from coordinator.state.errors import StateUnavailable
from coordinator.store.binding import Binding, NotBound
from coordinator.store.blob_store import BlobStore
from coordinator.store.redis_connection import PREFIX
from fedgalore.process.tls import expiry

TIMEOUT_S = 3.0
SHARED_S = 1.0  # so long all who ask hear the same


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
        self._turn = asyncio.Lock()
        self._last: tuple[float, Readiness] | None = None  # when it was found, by the monotonic clock

    async def readiness(self) -> Readiness:
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
        if problem := await self._redis_loses(warnings):
            return Check(ok=False, detail=problem)
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

    async def _redis_loses(self, warnings: list[str]) -> str | None:
        """Why this Redis does not keep what is written to it."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                # Writes no byte, and no key either; a Redis that takes no writes refuses it all the same.
                await self._redis.setrange(f"{PREFIX}:probe", 0, "")
        except (RedisError, OSError, TimeoutError) as error:
            return f"takes no writes ({error}); give it memory (maxmemory) or disk, and a master's role"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                facts = {**await self._redis.info("memory"), **await self._redis.info("stats")}
        except (RedisError, OSError, TimeoutError):
            warnings.append(
                "redis: INFO is not allowed, so nobody knows whether it evicts keys; allow it, or see to it that "
                "maxmemory-policy is noeviction"
            )
            return None
        if (policy := facts.get("maxmemory_policy", "noeviction")) != "noeviction":
            return f"has maxmemory-policy {policy}, by which it deletes jobs; set maxmemory-policy noeviction"
        if evicted := int(facts.get("evicted_keys", 0)):
            return (
                f"has evicted {evicted} keys, which may be those of jobs, clients or credentials; restore it from a "
                "backup, or make sure that nothing is missing and say CONFIG RESETSTAT"
            )
        return None

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

    async def _check_state(self) -> Check:
        """What the collector found, which looks at the state every few seconds."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                refusal = await self._redis.get(f"{PREFIX}:refusal")
        except (RedisError, OSError, TimeoutError) as error:
            return Check(ok=False, detail=str(error) or "no answer in time")
        return Check(ok=not refusal, detail=str(refusal or "no key is known to be missing"))


def _odd(certificate: Path) -> str | None:
    try:
        return expiry(certificate)
    except (OSError, ValueError) as error:
        return f"{certificate} cannot be read ({error})"
