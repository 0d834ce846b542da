"""The aggregator: a process of its own that prepares models and aggregates rounds, on a GPU where there is one.

It keeps nothing: what there is to do stands in Redis, what it makes are blobs named by content. Killed anywhere, it
looks again and makes the same bits; the engine takes the first result of a round and ignores a second.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from coordinator.errors import DomainError, StateUnavailable
from coordinator.job import Status
from coordinator.round_state import Phase
from coordinator.settings import CoordinatorSettings, SettingsError, load

if TYPE_CHECKING:
    from coordinator.blob_store import BlobStore
    from coordinator.engine import Engine
    from coordinator.job import Job

IDLE_S = 1.0
ATTEMPTS = 3  # at one round before it is given up

log = structlog.get_logger("aggregator")


class Aggregator:
    """Looks for work and does it, one piece after the other."""

    def __init__(self, engine: Engine, blobs: BlobStore) -> None:
        self._engine = engine
        self._blobs = blobs
        self._failures: dict[tuple[str, int], int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            mark, worked = self._engine.mark(), False
            try:
                for job in await self._engine.active_jobs():
                    worked |= await self._serve(job)
            except StateUnavailable as error:
                log.warning("redis does not answer", reason=str(error))
            if not worked:
                await self._engine.wait_for_change(IDLE_S, mark)

    async def _serve(self, job: Job) -> bool:
        """Does what this job needs; whether there was anything."""
        if job.status is Status.PENDING:
            await self._prepare(job)
        elif job.round is not None and job.round.phase is Phase.AGGREGATION:
            await self._aggregate(job)
        else:
            return False
        return True

    async def _prepare(self, job: Job) -> None:
        from coordinator import aggregation

        with structlog.contextvars.bound_contextvars(job=job.id):
            try:
                prepared = await asyncio.to_thread(aggregation.prepare, job.parsed, self._blobs)
            except (aggregation.PreparationError, OSError) as error:
                log.error("model refused", reason=str(error))
                await self._post(self._engine.preparation_failed, job.id, str(error))
                return
            except Exception as error:  # a checkpoint can break transformers in any way; the job must hear of it
                log.exception("model failed")
                reason = f"model.source: transformers could not load it ({type(error).__name__}: {error})"
                await self._post(self._engine.preparation_failed, job.id, reason)
                return
            await self._post(self._engine.prepared, job.id, prepared)
            log.info("model prepared", targets=len(prepared.plan["targets"]))

    async def _aggregate(self, job: Job) -> None:
        from coordinator import aggregation

        assert job.round is not None
        number = job.round.number
        with structlog.contextvars.bound_contextvars(job=job.id, round=number):
            try:
                done = await asyncio.to_thread(aggregation.aggregate, job, self._blobs, aggregation.best_device())
            except Exception as error:  # whatever it is, the round must end
                tried = self._failures.get((job.id, number), 0) + 1
                self._failures[job.id, number] = tried
                log.exception("aggregation failed", attempt=tried)
                if tried < ATTEMPTS:
                    await asyncio.sleep(IDLE_S)
                    return
                await self._post(self._engine.aggregation_failed, job.id, number, f"{type(error).__name__}: {error}")
                return
            await self._post(self._engine.aggregated, job.id, number, done.model, done.timings, done.statistics)
            log.info("round aggregated", version=done.model.version, **done.timings)

    async def _post(self, call: Callable, *arguments: object) -> None:  # type: ignore[type-arg]  # any engine method
        """Tells the engine; a job that was cancelled or a round that closed meanwhile is no error."""
        try:
            await call(*arguments)
        except StateUnavailable:
            raise
        except DomainError as error:
            log.info("result not wanted any more", reason=str(error))


async def serve(settings: CoordinatorSettings, until_stdin_closes: bool = False) -> None:
    """Runs until SIGTERM or SIGINT, or until the process that holds the other end of stdin is gone."""
    from coordinator.blob_store import DirectoryBlobStore
    from coordinator.engine import Engine
    from coordinator.state_store import RedisStateStore

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stop), daemon=True).start()
    # the first import takes seconds: before the first job asks
    await asyncio.to_thread(_import_torch, settings.threads)
    store = RedisStateStore(settings.redis_url)
    try:
        await Aggregator(Engine(store), DirectoryBlobStore(settings.blob_dir)).run(stop)
    finally:
        await store.close()


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(stop.set)


def _import_torch(threads: int | None) -> None:
    import torch

    import coordinator.aggregation  # noqa: F401

    if threads is not None:
        torch.set_num_threads(threads)


def main(arguments: list[str] | None = None) -> int:
    """`python -m coordinator.aggregator`; settings come from the environment."""
    from coordinator.logs import configure

    given = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    asyncio.run(serve(settings, "--until-stdin-closes" in given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
