"""What Redis keeps of a job beside its document so that nobody has to read it: status, facts and totals. Jobs that an
earlier version of this software wrote lack them, and a hand may have lost them; document and rounds say what they were.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from coordinator.state.errors import JobUnreadable
from coordinator.state.job_filter import Facts
from coordinator.state.pooled import pooled, results
from coordinator.state.round_state import Phase, Round
from coordinator.store.binding import Binding
from coordinator.store.census import take
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.spec.server import ServerSpec


async def fill_in(store: RedisStateStore, binding: Binding | None = None) -> None:
    """Writes what is lacking of jobs that can be read. A job that is saved meanwhile waits for the next time.

    Args:
        binding: is checked before anything is written; None where a person has said that the store is the right one.

    Raises:
        NotBound: the blobs belong to another state store.
        StateUnavailable, OSError: the state store or the blob store does not answer.
    """
    census = await take(store.connection)
    lacking = {job_id: keys.saves for job_id, keys in census.jobs.items() if keys.lacks_derived}
    if not lacking:
        return
    if binding is not None:
        await binding.check()
    script = store.connection.script("fill_in")
    for job in await store.load_many(list(lacking)):
        try:
            totals = _totals(await store.closed_rounds(job.id), job.parsed.server)
        except JobUnreadable:
            continue  # a round is damaged
        args = [str(lacking[job.id]), job.status, json.dumps(totals), Facts.of(job).to_json()]
        keys = [store.connection.job(job.id), store.connection.job(job.id, "totals")]
        await store.connection.ask(script(keys=keys, args=args))


def _totals(rounds: Sequence[Round], server: ServerSpec) -> dict[str, str]:
    """As `save.lua` counts them."""
    committed = sum(each.phase is Phase.COMMITTED for each in rounds)
    totals = {"committed": str(committed), "abandoned": str(len(rounds) - committed)}
    for each in rounds:
        if results(each):
            totals |= {"evaluated": str(each.number), "metrics": json.dumps(pooled(each, server).metrics)}
        if each.statistics:
            totals["statistics"] = json.dumps(each.statistics)
    return totals
