"""Who may come in: both doors ask here before they look at anything else."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog

from coordinator.doors.caller import Caller, everywhere
from coordinator.doors.oidc import tokens
from coordinator.state.errors import CredentialNotFound, NotAllowed, NotAuthenticated
from coordinator.state.limits import MAX_TOKEN_VALID_S
from coordinator.store.credentials import (
    EVERYWHERE,
    JOIN_TOKEN,
    KEY,
    ApiKey,
    JoinToken,
    Role,
    digest_of,
    id_of,
    new_secret,
)
from coordinator.store.redis_credential_store import RedisCredentialStore

if TYPE_CHECKING:
    from coordinator.doors.oidc.people import People

LOOKED_S = 1.0  # agents call by the hundred
_log = structlog.get_logger(__name__)
_REFUSALS = {
    "unknown": "join_token: it is not known here, or was revoked; an operator makes another token by "
    "`fedgalore agents invite {client}`",
    "other": "join_token: it was made for another client; an operator makes a token for this client by "
    "`fedgalore agents invite {client}`",
    "used": "join_token: it was used already, with another key; an operator makes another token by "
    "`fedgalore agents invite {client}`",
    "expired": "join_token: it has expired; an operator makes another token by `fedgalore agents invite {client}`",
    "struck": "join_token: it is good, but the key of client {client} was revoked; delete agent.key in the agent's "
    "work folder and start the agent again: it makes a new key, and this token lets it in",
}


async def _always(max_age_s: float) -> None:
    """The store is always the right one."""


class Access(Enum):
    """How a coordinator takes credentials."""

    OPEN = auto()  # on loopback without an operator's key: whoever is on this machine is let in
    SECURED = auto()  # every call needs credentials
    PLAINTEXT = auto()  # open to the network by `--insecure`: nobody needs credentials, and nobody may send any


class Doorkeeper:
    """Knows keys and tokens by their digests.

    Args:
        operator_key: the first key, from the settings; what it makes is kept in the store.
        check_state: raises `StateUnavailable` where this is not the store that clients enrolled with and jobs were
            posted to: they wait then, and nothing is written. Its argument: seconds for which the last look will do.
        people: of an identity provider, who come in by its tokens.
    """

    def __init__(
        self,
        store: RedisCredentialStore,
        access: Access = Access.OPEN,
        operator_key: str | None = None,
        clock: Callable[[], float] = time.time,
        check_state: Callable[[float], Awaitable[None]] = _always,
        people: People | None = None,
    ) -> None:
        self._store = store
        self.access = access
        self._operator_digest = digest_of(operator_key) if operator_key else ""
        self._clock = clock
        self._check_state = check_state
        self._people = people

    async def caller(self, secret: str | None) -> Caller:
        """Who holds an API key, or comes with a token of the identity provider, and what they may do.

        Raises:
            NotAuthenticated: no key, or none that is known here; a token that is not good.
            NotAllowed, ProviderAway: as `People.caller`.
        """
        self._check_line(secret)
        if self.access is not Access.SECURED:
            return Caller(everywhere(Role.OPERATOR))
        if secret is None:
            or_sign_in = ", or sign in by `fedgalore login`" if self._people else ""
            raise NotAuthenticated(
                "Authorization: no API key came with the request; send `Authorization: Bearer KEY`, with a key that an "
                f"operator makes by `fedgalore keys create`{or_sign_in}"
            )
        digest = digest_of(secret)
        if hmac.compare_digest(digest, self._operator_digest):
            return Caller(everywhere(Role.OPERATOR), "settings", "operator")
        if self._people is not None and tokens.looks_like_one(secret):
            return await self._people.caller(secret)
        key_id = id_of(KEY, secret)
        key = await self._store.key(key_id) if key_id else None
        if key is None:
            await self._check_state(0.0)
        if key is None or not hmac.compare_digest(digest, key.digest):
            _log.warning("api_key_refused", key=key_id)
            raise NotAuthenticated(
                "the API key is not known here, or was revoked; ask an operator for another, who makes it by "
                "`fedgalore keys create`"
            )
        return Caller({key.team or EVERYWHERE: key.role}, key.id, key.name)

    async def check_writable(self) -> None:
        """Returns where what people write will be kept.

        Raises:
            StateUnavailable: the store is another than this coordinator's.
        """
        await self._check_state(0.0)

    async def check_agent(self, client: str, secret: str | None) -> None:
        """Returns when the secret is this client's key.

        Raises:
            NotAuthenticated: it is not.
            StateUnavailable: nobody knows, or the store is another than this coordinator's.
        """
        self._check_line(secret)
        await self._check_state(LOOKED_S)
        if self.access is not Access.SECURED:
            return
        known = await self._store.credential(client)
        if known is None or secret is None or not hmac.compare_digest(digest_of(secret), known):
            if known is None:
                await self._check_state(0.0)
            _log.warning("agent_refused", client=client, enrolled=known is not None, with_key=secret is not None)
            raise NotAuthenticated(
                f"client {client!r} is not enrolled with this key, or was revoked; give its agent a join token, made "
                f"by `fedgalore agents invite {client}`"
            )

    async def enrol(self, client: str, token: str, key_digest: str) -> None:
        """Takes the key that a client made for a join token. A second time with the same key changes nothing.

        Raises:
            NotAllowed: the token is not good for this client, or cannot be taken here.
        """
        self._refuse_plaintext()
        await self._check_state(0.0)
        now = self._clock()
        outcome = await self._store.enrol(id_of(JOIN_TOKEN, token) or "", digest_of(token), client, key_digest, now)
        if outcome in _REFUSALS:
            _log.warning("join_token_refused", client=client, outcome=outcome)
            raise NotAllowed(_REFUSALS[outcome].format(client=client))
        if outcome == "replaced":
            _log.warning("client_enrolled", client=client, outcome=outcome)
        else:
            _log.info("client_enrolled", client=client, outcome=outcome)

    async def create_key(self, name: str, role: Role, team: str = "") -> tuple[ApiKey, str]:
        """A new API key and its secret, which cannot be read again. `team`: where alone it is good."""
        self._refuse_plaintext()
        secret = new_secret(KEY)
        key = ApiKey(secret.id, name, role, secret.digest, self._clock(), team)
        await self._store.add_key(key)
        _log.info("api_key_created", key=key.id, name=name, role=role.value, team=team)
        return key, secret.text

    async def keys(self) -> list[ApiKey]:
        """Oldest first; the operator's key of the settings is not among them."""
        return await self._store.keys()

    async def revoke_key(self, key_id: str) -> None:
        """Raises `CredentialNotFound`."""
        if not await self._store.remove_key(key_id):
            raise CredentialNotFound(f"key {key_id!r} is not known; GET /api/v1/keys lists those that are")
        _log.info("api_key_revoked", key=key_id)

    async def create_join_token(self, client: str, valid_s: float) -> tuple[JoinToken, str]:
        """A token by which this client can enrol once, and its secret, which cannot be read again."""
        self._refuse_plaintext()
        secret, now = new_secret(JOIN_TOKEN), self._clock()
        for old in await self._store.join_tokens():
            if old.expires_at < now - MAX_TOKEN_VALID_S:
                await self._store.remove_join_token(old.id)
        token = JoinToken(secret.id, client, secret.digest, now, now + valid_s)
        await self._store.add_join_token(token)
        _log.info("join_token_created", token=token.id, client=client)
        return token, secret.text

    async def join_tokens(self) -> list[JoinToken]:
        """Oldest first; used and expired tokens are among them."""
        return await self._store.join_tokens()

    async def revoke_join_token(self, token_id: str) -> None:
        """Raises `CredentialNotFound`. A key that the token has brought in stays."""
        if not await self._store.remove_join_token(token_id):
            raise CredentialNotFound(f"token {token_id!r} is not known; GET /api/v1/join-tokens lists those that are")
        _log.info("join_token_revoked", token=token_id)

    async def revoke_agent(self, client: str) -> bool:
        """Strikes a client's key and its tokens; False when there was neither."""
        revoked = await self._store.revoke(client)
        if revoked:
            _log.info("client_revoked", client=client)
        return revoked

    def is_expired(self, token: JoinToken) -> bool:
        return token.expires_at < self._clock()

    def _check_line(self, secret: str | None) -> None:
        if secret is not None:
            self._refuse_plaintext()

    def _refuse_plaintext(self) -> None:
        """Raises `NotAllowed` where everybody on the network could read a secret."""
        if self.access is Access.PLAINTEXT:
            raise NotAllowed(
                "no key or token is taken or made over plaintext beyond this machine (--insecure); revoke what you "
                "sent, and give this coordinator a certificate (tls_cert, tls_key)"
            )
