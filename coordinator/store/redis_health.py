"""Whether a Redis keeps what is written to it: looked at by whoever serves, and by `fedgalore doctor`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from coordinator.store.redis_address import RedisAddress
from coordinator.store.redis_client import client_at, key_prefix

TIMEOUT_S = 3.0
OLDEST = 7  # major version
_MAY_LOSE = (
    "redis: a failover may lose the last second of what was acknowledged; add ?replicas=1 to redis_url, so that a "
    "replica has a write before it counts"
)
FAULTS = (RedisError, OSError, TimeoutError)
T = TypeVar("T")


@dataclass(frozen=True)
class Health:
    """`detail`: what was found, or what is wrong and what to do. `warnings`: what works but may lose data."""

    ok: bool
    detail: str
    warnings: tuple[str, ...] = ()


def client(address: RedisAddress, **options: Any) -> Redis:
    """For `look`: a client with connections of its own, so that a busy pool does not look like a dead server."""
    return client_at(address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, **options)


async def look(redis: Redis, address: RedisAddress) -> Health:
    """Asks the server; each question has `TIMEOUT_S`. Writes nothing."""
    try:
        await _in_time(redis.ping())
    except FAULTS as error:
        return Health(False, f"no answer ({error or type(error).__name__}); check redis_url and the server")
    try:
        # Writes no byte, and no key either; a Redis that takes no writes refuses it all the same.
        await _in_time(redis.setrange(f"{key_prefix(address)}:probe", 0, ""))
    except FAULTS as error:
        return Health(False, f"takes no writes ({error}); give it memory (maxmemory) or disk, and a master's role")
    problem, unsure = await _loses(redis, address)
    if problem is not None:
        return Health(False, problem, unsure)
    try:
        configured = await _in_time(redis.config_get("append*"))
    except FAULTS:
        unknown = (
            "redis: CONFIG GET is not allowed, so nobody knows whether commits survive a crash; allow it, or set "
            "appendonly yes and appendfsync always"
        )
        return Health(True, "answers; durability unknown", (*unsure, unknown))
    durability = ", ".join(f"{name} {configured.get(name)}" for name in ("appendonly", "appendfsync"))
    if (configured.get("appendonly"), configured.get("appendfsync")) != ("yes", "always"):
        risk = f"redis: has {durability}; a crash may lose commits; set appendonly yes and appendfsync always"
        unsure = (*unsure, risk)
    return Health(True, f"answers; {durability}", unsure)


def is_too_old(version: str) -> bool:
    """Whether a server's version is below the oldest that serves; of one that is no number nobody knows."""
    major = re.match(r"[0-9]{1,9}", version)
    return major is not None and int(major[0]) < OLDEST


async def _loses(redis: Redis, address: RedisAddress) -> tuple[str | None, tuple[str, ...]]:
    """Why this Redis does not keep what is written to it, or is too old; and what nobody knows."""
    try:
        facts = {
            **await _in_time(redis.info("server")),
            **await _in_time(redis.info("memory")),
            **await _in_time(redis.info("stats")),
            **await _in_time(redis.info("replication")),
        }
    except FAULTS:
        unknown = (
            "redis: INFO is not allowed, so nobody knows whether it evicts keys; allow it, or see to it that "
            "maxmemory-policy is noeviction"
        )
        return None, (unknown,)
    version = str(facts.get("redis_version", OLDEST))
    if is_too_old(version):
        return f"is Redis {version}; take Redis {OLDEST} or newer, or Valkey", ()
    if (policy := facts.get("maxmemory_policy", "noeviction")) != "noeviction":
        return f"has maxmemory-policy {policy}, by which it deletes jobs; set maxmemory-policy noeviction", ()
    if evicted := int(facts.get("evicted_keys", 0)):
        return (
            f"has evicted {evicted} keys, which may be those of jobs, clients or credentials; restore it from a "
            "backup, or make sure that nothing is missing and say CONFIG RESETSTAT"
        ), ()
    if (replicas := int(facts.get("connected_slaves", 0))) < address.replicas:
        return (
            f"has {replicas} replicas, and redis_url asks for {address.replicas}, so nothing is written; look after "
            "the replicas, or ask for fewer"
        ), ()
    if address.fails_over and not address.replicas:
        return None, (_MAY_LOSE,)
    return None, ()


async def _in_time(asked: Awaitable[T]) -> T:
    async with asyncio.timeout(TIMEOUT_S):
        return await asked
