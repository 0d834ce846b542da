"""Sites that a test plays itself: what agents would answer to the preflight check."""

from __future__ import annotations

from coordinator.engine.assembly import Engine
from coordinator.state.sites import SiteFacts

FACTS = SiteFacts(examples=20, test_examples=10, classes=2, longest=40)


async def all_fit(engine: Engine, *but: str) -> None:
    """Every site that was asked says that its data fit, but these."""
    for job in await engine.reader.active_jobs():
        for client in sorted(job.unanswered - {*but}):
            await engine.agents.site_checked(job.id, client, None, FACTS)
