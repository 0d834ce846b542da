"""Digests of keys and join tokens, on Redis.

| key           | type | what                                                                |
|---------------|------|---------------------------------------------------------------------|
| `keys`        | hash | id -> API key as JSON, its digest in place of its secret            |
| `join_tokens` | hash | id -> join token as JSON, likewise; kept for 90 days after its end  |
| `credentials` | hash | client -> digest of its key                                         |
| `struck`      | set  | digests of revoked clients' keys: no token brings them back         |
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Literal

from coordinator.store.credentials import ApiKey, JoinToken, Role
from coordinator.store.redis_connection import RedisConnection

Enrolment = Literal["enrolled", "replaced", "known", "struck", "unknown", "other", "used", "expired"]


class RedisCredentialStore:
    """Belongs to one event loop; any number of processes may share the prefix.

    Every method raises `StateUnavailable` when Redis does not answer.
    """

    def __init__(self, url: str, prefix: str = "fedgalore") -> None:
        self._connection = RedisConnection(url, prefix)
        self._redis, self._ask = self._connection.redis, self._connection.ask
        self._keys = self._connection.key("keys")
        self._tokens = self._connection.key("join_tokens")
        self._credentials = self._connection.key("credentials")
        self._struck = self._connection.key("struck")
        self._enrol, self._revoke = self._connection.script("enrol"), self._connection.script("revoke")

    async def add_key(self, key: ApiKey) -> None:
        fields = asdict(key)
        if not key.team:
            del fields["team"]  # so that a version without teams reads it, and only such a key
        document = json.dumps(fields)
        await self._connection.write(lambda pipeline: pipeline.hset(self._keys, key.id, document))

    async def key(self, key_id: str) -> ApiKey | None:
        document = await self._ask(self._redis.hget(self._keys, key_id))
        return _key(document) if document else None

    async def keys(self) -> list[ApiKey]:
        """Oldest first."""
        keys = map(_key, await self._ask(self._redis.hvals(self._keys)))
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    async def remove_key(self, key_id: str) -> bool:
        """False when there was none."""
        return await self._connection.take_out("keys", key_id)

    async def add_join_token(self, token: JoinToken) -> None:
        document = json.dumps(asdict(token))
        await self._connection.write(lambda pipeline: pipeline.hset(self._tokens, token.id, document))

    async def join_tokens(self) -> list[JoinToken]:
        """Used and expired ones among them, oldest first."""
        tokens = [JoinToken(**json.loads(document)) for document in await self._ask(self._redis.hvals(self._tokens))]
        return sorted(tokens, key=lambda token: (token.created_at, token.id))

    async def remove_join_token(self, token_id: str) -> bool:
        """False when there was none."""
        return await self._connection.take_out("join_tokens", token_id)

    async def credential(self, client: str) -> str | None:
        """Digest of the client's key; None when it never brought a key, or was revoked."""
        digest: str | None = await self._ask(self._redis.hget(self._credentials, client))
        return digest

    async def enrol(self, token_id: str, token_digest: str, client: str, key_digest: str, now: float) -> Enrolment:
        """Takes the token and the client's key in one step, or neither."""
        args = [token_id, token_digest, client, key_digest, repr(now)]
        outcome: Enrolment = await self._connection.keep(
            self._enrol, [self._tokens, self._credentials, self._struck], args
        )
        return outcome

    async def revoke(self, client: str) -> bool:
        """Strikes the client's key for good, and the tokens made for it; False when there was neither."""
        keys = [self._tokens, self._credentials, self._struck, self._connection.key("taken_out")]
        return bool(await self._connection.keep(self._revoke, keys, [client]))

    async def close(self) -> None:
        await self._connection.close()


def _key(document: str) -> ApiKey:
    fields = json.loads(document)
    return ApiKey(**{**fields, "role": Role(fields["role"])})
