"""The refusal of a join token is a whole sentence with the field, the problem and the remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from coordinator.doors.doorkeeper import Access, Doorkeeper
from coordinator.state.errors import NotAllowed
from coordinator.store.credentials import digest_of
from coordinator.store.redis_credential_store import RedisCredentialStore

INVITE = "`fedgalore agents invite site-a`"
REFUSALS = {
    "unknown": f"it is not known here, or was revoked; an operator makes another token by {INVITE}",
    "other": f"it was made for another client; an operator makes a token for this client by {INVITE}",
    "used": f"it was used already, with another key; an operator makes another token by {INVITE}",
    "expired": f"it has expired; an operator makes another token by {INVITE}",
    "struck": "it is good, but the key of client site-a was revoked; delete agent.key in the agent's work folder and "
    "start the agent again: it makes a new key, and this token lets it in",
}


@asynccontextmanager
async def opened(redis_url: str) -> AsyncIterator[Doorkeeper]:
    store = RedisCredentialStore(redis_url)
    yield Doorkeeper(store, Access.SECURED)
    await store.close()


async def refused(doorkeeper: Doorkeeper, outcome: str) -> None:
    """site-a enrols with a key and with a token that is refused for this reason."""
    key, valid_s = digest_of("a key"), -1 if outcome == "expired" else 60
    _, token = await doorkeeper.create_join_token("site-b" if outcome == "other" else "site-a", valid_s)
    if outcome == "used":
        await doorkeeper.enrol("site-a", token, digest_of("another key"))
    if outcome == "struck":
        _, earlier = await doorkeeper.create_join_token("site-a", 60)
        await doorkeeper.enrol("site-a", earlier, key)
        await doorkeeper.revoke_agent("site-a")
        _, token = await doorkeeper.create_join_token("site-a", 60)
    await doorkeeper.enrol("site-a", "nonsense" if outcome == "unknown" else token, key)


@pytest.mark.parametrize("outcome", REFUSALS)
async def test_a_refusal_is_a_sentence_and_the_log_has_its_outcome(redis_url: str, outcome: str) -> None:
    async with opened(redis_url) as doorkeeper:
        with capture_logs() as logged, pytest.raises(NotAllowed) as caught:
            await refused(doorkeeper, outcome)
    assert str(caught.value) == f"join_token: {REFUSALS[outcome]}"
    refusals = [row for row in logged if row["event"] == "join_token_refused"]
    assert refusals == [{"event": "join_token_refused", "client": "site-a", "outcome": outcome, "log_level": "warning"}]
