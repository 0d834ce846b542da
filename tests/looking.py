"""Reads a job's rounds and events by the job's id, for tests that hold no job object."""

from __future__ import annotations

from typing import Any

from coordinator.engine.assembly import Engine
from coordinator.state.round_state import Round, UpdateReceipt
from coordinator.state.stream_events import StreamRow


async def round_of(engine: Engine, job_id: str, number: int) -> Round:
    return await engine.reader.round(await engine.reader.job(job_id), number)


async def rounds_of(engine: Engine, job_id: str) -> list[Round]:
    return await engine.reader.rounds(await engine.reader.job(job_id))


async def traffic_of(engine: Engine, job_id: str) -> dict[int, dict[str, dict[str, int]]]:
    """Of all rounds."""
    return await engine.reader.traffic(job_id, await rounds_of(engine, job_id))


async def events_of(engine: Engine, job_id: str, **arguments: Any) -> list[StreamRow]:
    return await engine.reader.events(await engine.reader.job(job_id), **arguments)


async def receipt_of(engine: Engine, job_id: str, number: int, client: str) -> UpdateReceipt | None:
    return (await round_of(engine, job_id, number)).receipts.get(client)
