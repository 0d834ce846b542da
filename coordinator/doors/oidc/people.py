"""People by their tokens: each token is looked at once, and remembered until it expires."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from coordinator.doors.caller import Caller
from coordinator.doors.oidc import tokens
from coordinator.doors.oidc.provider import Provider
from coordinator.doors.oidc.tokens import Expected, Person
from coordinator.settings import Grant
from coordinator.state.errors import NotAllowed, NotAuthenticated
from coordinator.store.credentials import Role

MOST_KNOWN = 4096  # tokens
MOST_NAMED = 10  # groups in a sentence
log = structlog.get_logger(__name__)


class _Known(NamedTuple):
    person: Person
    changes: int  # of the provider's keys, when it was looked at


class People:
    """Belongs to one event loop.

    Args:
        groups: what people of each group may do.
        clock: seconds since the epoch, as the provider has it.
    """

    def __init__(
        self,
        provider: Provider,
        expected: Expected,
        groups: Mapping[str, Grant],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self._expected = expected
        self._groups = groups
        self._clock = clock
        self._known: dict[bytes, _Known] = {}  # by the digest of a token, the oldest first

    async def caller(self, token: str) -> Caller:
        """Whose token it is, and what they may do.

        Raises:
            NotAuthenticated: the token is not good, or not any more.
            NotAllowed: none of the person's groups may do anything here.
            ProviderAway: nobody can tell.
        """
        try:
            person = await self._person(token)
            return self._allowed(person)
        except (NotAuthenticated, NotAllowed) as error:
            log.warning("token_refused", reason=str(error))
            raise

    async def _person(self, token: str) -> Person:
        digest, now = hashlib.sha256(token.encode()).digest(), self._clock()
        known = self._known.get(digest)
        if known is None or known.changes != self.provider.changes or now >= known.person.expires_at:
            self._known.pop(digest, None)
            keys = await self.provider.keys(tokens.key_id(token))
            known = _Known(tokens.person(token, keys, self._expected, now), self.provider.changes)
            if len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = known
        return known.person

    def _allowed(self, person: Person) -> Caller:
        roles: dict[str, Role] = {}
        for grant in (self._groups[group] for group in person.groups if group in self._groups):
            if roles.get(grant.team) is not Role.OPERATOR:
                roles[grant.team] = grant.role
        if not roles:
            shown = ", ".join(repr(group[:100]) for group in person.groups[:MOST_NAMED]) or "none"
            raise NotAllowed(
                f"Authorization: {person.name} is in no group that may do anything here (groups: {shown}); ask an "
                "operator to name one of them in oidc_groups"
            )
        return Caller(roles, f"oidc:{person.subject}", person.name, "token")
