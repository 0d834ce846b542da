"""The aggregator: a process of its own that prepares models and aggregates rounds, on a GPU where there is one.

It keeps nothing: what there is to do stands in Redis, what it makes are blobs named by content. Killed anywhere, it
looks again and makes the same bits; the engine takes the first result of a round and ignores a second. How often it
has begun a piece of work is counted in Redis too, so that one which kills the process does not do so for ever.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog

from coordinator.settings import CoordinatorSettings, load
from coordinator.state.errors import DomainError, LeaseLost, StateUnavailable
from coordinator.state.job_state import Status
from coordinator.state.round_state import Effect, Phase
from coordinator.store.disk import is_full
from fedgalore.process import faults
from fedgalore.process.faults import Fault, reach
from fedgalore.process.settings import SettingsError

if TYPE_CHECKING:
    from coordinator.engine.aggregator_calls import AggregatorCalls
    from coordinator.engine.assembly import Engine
    from coordinator.state.job_state import Job
    from coordinator.store.blob_store import BlobStore

IDLE_S = 1.0
FULL_S = 5.0  # between looks for room on a full disk
ATTEMPTS = 3  # at one piece of work before it is given up

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("aggregator")


class _NoRoom(Exception):
    """The disk is full, which is nobody's fault: the piece is begun again when there is room."""


class Aggregator:
    """Looks for work and does it, one piece after the other."""

    def __init__(self, calls: AggregatorCalls, blobs: BlobStore, allow_pickle: bool = False) -> None:
        self._calls = calls
        self._blobs = blobs
        self._allow_pickle = allow_pickle
        self._stop = asyncio.Event()
        self._in_hand: tuple[str, str] | None = None  # job and piece

    async def run(self, stop: asyncio.Event) -> None:
        """Works until told to stop; then it ends the piece in hand first."""
        self._stop = stop
        beside = [asyncio.create_task(self._forgive()), asyncio.create_task(self._calls.keep_lease())]
        try:
            while not self._stop.is_set():
                await self._either(self._calls.leading())
                if self._stop.is_set():
                    break
                mark, worked = self._calls.reader.mark(Effect.WAKE_AGGREGATOR), False
                try:
                    worked = await self._work()
                except (StateUnavailable, LeaseLost) as error:
                    log.warning("no work for now", reason=str(error))
                if not worked:
                    await self._calls.reader.wait_for_change(IDLE_S, mark, Effect.WAKE_AGGREGATOR)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _either(self, until: Coroutine[Any, Any, None]) -> None:
        """Waits for this, or to be told to stop."""
        tasks = [asyncio.ensure_future(until), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _work(self) -> bool:
        """Does one piece; whether there was any. Clients wait for a round, so rounds go before new jobs."""
        waiting = [(job, piece) for job in await self._calls.reader.active_jobs() if (piece := _piece(job))]
        full = False
        for job, piece in sorted(waiting, key=lambda item: item[0].status is Status.PENDING):
            try:
                if await self._serve(job, piece):
                    return True
            except (StateUnavailable, LeaseLost):
                raise
            except _NoRoom as error:
                log.error("disk full", job=job.id, piece=piece, reason=str(error), again_in_s=FULL_S)
                await self._calls.forget_attempts(job.id, piece)
                full = True
            except Exception:  # this job's, whatever it is: the others go on
                log.exception("job not served", job=job.id, piece=piece)
        if full:
            await self._either(asyncio.sleep(FULL_S))
        return False

    async def _serve(self, job: Job, piece: str) -> bool:
        """Whether the piece is done; if not, the next one may have its turn."""
        with structlog.contextvars.bound_contextvars(job=job.id, piece=piece):
            attempt = await self._calls.begin_attempt(job.id, piece)
            self._in_hand = job.id, piece
            reach(Fault.ATTEMPT_COUNTED)
            do = self._prepare if job.status is Status.PENDING else self._aggregate
            done = await do(job, attempt)
            if done:
                reach(Fault.RESULT_TOLD)
                await self._calls.forget_attempts(job.id, piece)
            self._in_hand = None
            return done

    async def _forgive(self) -> None:
        """A process that was told to stop may be killed at its piece: that is not the piece's fault."""
        await self._stop.wait()
        if self._in_hand is not None:
            with suppress(StateUnavailable):
                await self._calls.forget_attempts(*self._in_hand)

    async def _prepare(self, job: Job, attempt: int) -> bool:
        """Makes version 0; whether the job has heard what became of it."""
        if attempt > ATTEMPTS:
            reason = f"the aggregator ended {ATTEMPTS} times while reading model.source: too little memory?"
            log.error("model given up", reason=reason)
            return await self._post(self._calls.preparation_failed, job.id, reason)

        from coordinator.aggregator import blobs as aggregation

        try:
            prepared = await self._compute(aggregation.prepare, job.parsed, self._blobs, self._allow_pickle)
        except _NoRoom:
            raise
        except (aggregation.PreparationError, OSError) as error:
            log.error("model refused", reason=str(error))
            return await self._post(self._calls.preparation_failed, job.id, str(error))
        except Exception as error:  # a checkpoint can break transformers in any way; the job must hear of it
            log.exception("model failed")
            reason = f"model.source: transformers could not load it ({type(error).__name__}: {error})"
            return await self._post(self._calls.preparation_failed, job.id, reason)
        log.info("model prepared", targets=len(prepared.plan["targets"]))
        return await self._post(self._calls.prepared, job.id, prepared)

    async def _aggregate(self, job: Job, attempt: int) -> bool:
        """Makes the next version; whether the round has heard what became of it."""
        assert job.round is not None
        number = job.round.number
        if attempt > ATTEMPTS:
            reason = f"the aggregator ended {ATTEMPTS} times while at it: too little memory?"
            log.error("round given up", reason=reason)
            return await self._post(self._calls.aggregation_failed, job.id, number, reason)

        from coordinator.aggregator import blobs as aggregation

        try:
            done = await self._compute(aggregation.aggregate, job, self._blobs, aggregation.best_device())
        except _NoRoom:
            raise
        except aggregation.UpdatesDamaged as error:
            for client in error.clients:
                receipt = job.round.participants[client].receipt
                assert receipt is not None
                reason = f"blob {receipt.blob.sha256[:12]}, its update, was damaged on the coordinator's disk"
                log.error("update damaged", client=client, blob=receipt.blob.sha256)
                await self._post(self._calls.update_lost, job.id, number, client, receipt.blob, reason)
            return True
        except Exception as error:  # whatever it is, the round must end
            log.exception("aggregation failed", attempt=attempt)
            if attempt < ATTEMPTS:
                await asyncio.sleep(IDLE_S)
                return False
            reason = f"{type(error).__name__}: {error}"
            return await self._post(self._calls.aggregation_failed, job.id, number, reason)
        if odd := [name for name, value in {**done.timings, **done.statistics}.items() if not isfinite(value)]:
            reason = f"{', '.join(odd)} of the aggregate is not finite: what clients sent is out of all proportion"
            log.error("aggregate refused", reason=reason)
            return await self._post(self._calls.aggregation_failed, job.id, number, reason)
        log.info("round aggregated", version=done.model.version, **done.timings)
        return await self._post(
            self._calls.aggregated, job.id, number, done.model, done.timings, done.statistics, done.dropped
        )

    @staticmethod
    async def _compute(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The work's result, from a thread.

        Raises:
            _NoRoom: the disk is full, whatever the work made of that.
        """
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except Exception as error:
            if is_full(error):
                raise _NoRoom(str(error)) from error
            raise

    async def _post(self, call: Callable[..., Awaitable[Job]], *arguments: object) -> bool:
        """Tells the engine, waiting for a store that is away: the result may have taken minutes. Always True.

        A job that was cancelled or a round that closed meanwhile is no error.
        """
        while True:
            try:
                await call(*arguments)
            except StateUnavailable as error:
                if self._stop.is_set():
                    raise
                log.warning("redis does not answer", reason=str(error))
                await asyncio.sleep(IDLE_S)
                continue
            except LeaseLost as error:
                if self._stop.is_set():
                    raise
                log.warning("lease lost", reason=str(error))  # Redis was away, perhaps; whoever has it may be as far
                await self._either(self._calls.leading())
                continue
            except DomainError as error:
                log.info("result not wanted any more", reason=str(error))
            return True


def _piece(job: Job) -> str | None:
    """What this job needs of the aggregator, under the name that its attempts are counted by."""
    if job.status is Status.PENDING:
        return "prepare"
    if job.round is not None and job.round.phase is Phase.AGGREGATION:
        return f"round {job.round.number}"
    return None


def build(settings: CoordinatorSettings) -> Engine:
    """An engine on the state that the settings name, under the aggregator's lease; it is to be closed."""
    from coordinator.engine.assembly import assemble
    from coordinator.engine.lease import AGGREGATOR, Lease
    from coordinator.store.redis_state_store import RedisStateStore

    store = RedisStateStore(settings.redis_url)
    return assemble(store, presence_s=settings.presence_s, lease=Lease(store, AGGREGATOR, settings.lease_s))


async def serve(settings: CoordinatorSettings, until_stdin_closes: bool = False) -> None:
    """Runs until SIGTERM or SIGINT, or until the process that holds the other end of stdin is gone."""
    from coordinator.store.blob_store import DirectoryBlobStore

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stop), daemon=True).start()
    # the first import takes seconds: before the first job asks
    await asyncio.to_thread(_import_torch, settings.threads)
    engine = build(settings)
    try:
        await Aggregator(engine.aggregator, DirectoryBlobStore(settings.blob_dir), settings.allow_pickle).run(stop)
    finally:
        await engine.close()


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # Not through `sys.stdin`, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


def _import_torch(threads: int | None) -> None:
    import torch

    import coordinator.aggregator.blobs  # noqa: F401

    if threads is not None:
        torch.set_num_threads(threads)


def main(arguments: list[str] | None = None) -> int:
    """`python -m coordinator.aggregator`; settings come from the environment."""
    from fedgalore.process.logs import configure

    given = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    faults.arm(settings.fault)
    asyncio.run(serve(settings, "--until-stdin-closes" in given))
    return 0
