"""A cancelled caller of the state store ends, wherever in a command the cancellation meets it."""

from __future__ import annotations

import asyncio

from coordinator.store.redis_state_store import RedisStateStore


async def test_no_cancellation_is_lost_in_a_command(redis_url: str) -> None:
    store = RedisStateStore(redis_url)

    async def ask_for_ever() -> None:
        while True:
            await store.active_ids()

    try:
        await store.active_ids()
        for steps in range(3, 43):
            caller = asyncio.create_task(ask_for_ever())
            for _ in range(steps):
                await asyncio.sleep(0)
            caller.cancel()
            done, _ = await asyncio.wait({caller}, timeout=2)
            assert done, f"cancelled after {steps} steps of the loop, it goes on"
    finally:
        await store.close()
