"""The parts of the engine, put together on a store."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.engine.agent_calls import AgentCalls
from coordinator.engine.aggregator_calls import AggregatorCalls
from coordinator.engine.clock import steady_clock
from coordinator.engine.driver_calls import DriverCalls
from coordinator.engine.lease import Lease, NoLease
from coordinator.engine.people_calls import PeopleCalls
from coordinator.engine.registry import ClientRegistry
from coordinator.engine.state_reader import StateReader
from coordinator.engine.stepper import Stepper
from coordinator.state.limits import MAX_AGENTS, MAX_JOBS
from coordinator.store.redis_state_store import RedisStateStore
from coordinator.store.removal import Removal


@dataclass(frozen=True)
class Engine:
    """What each caller may do. Belongs to one event loop; close it in the end."""

    reader: StateReader
    agents: AgentCalls
    people: PeopleCalls
    driver: DriverCalls
    aggregator: AggregatorCalls
    _store: RedisStateStore = field(repr=False)

    async def close(self) -> None:
        await self._store.close()


def assemble(
    store: RedisStateStore,
    clock: Callable[[], float] | None = None,
    presence_s: float = 30.0,
    token: Callable[[], str] = lambda: secrets.token_hex(4),
    lease: Lease | NoLease | None = None,
    max_agents: int = MAX_AGENTS,
    max_jobs: int = MAX_JOBS,
) -> Engine:
    """An engine on a store that any number of them may share.

    Args:
        clock: seconds since the epoch; default: steady, whatever the machine's is set to.
        lease: what the work of driver and aggregator is done under; without a lease, several processes may do it.
        max_agents: enrolled at most.
        max_jobs: active at most.
    """
    clock = clock or steady_clock()
    lease = lease or NoLease()
    registry = ClientRegistry(store, clock, presence_s, max_agents)
    stepper = Stepper(store, clock, registry, lease)
    removal = Removal(store.connection)
    reader = StateReader(store, clock, registry, stepper, removal)
    return Engine(
        reader,
        AgentCalls(store, clock, registry, stepper, presence_s),
        PeopleCalls(store, clock, registry, stepper, reader, removal, token, max_jobs),
        DriverCalls(store, stepper, reader, lease),
        AggregatorCalls(store, stepper, reader, lease),
        store,
    )
