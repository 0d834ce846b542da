"""The aggregator: prepares models, aggregates rounds, loads final models back, on a GPU where there is one.

It keeps nothing: what there is to do stands in Redis, what it makes are blobs named by content. Killed anywhere, it
looks again and makes the same bits; the engine takes the first result of a round and ignores a second. How often it
has begun a piece of work is counted in Redis too, so that a piece which kills the process does not do so for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.aggregator.doing import Doing, NoRoom, Post
from coordinator.aggregator.exported import timed
from coordinator.aggregator.pieces import Aggregation, Completion, Preparation, Verification, Work, piece_of
from coordinator.state.errors import DomainError, LeaseLost, StateUnavailable
from coordinator.state.round_state import Effect
from coordinator.store.refusals import noted
from fedgalore.process.faults import Fault, reach

if TYPE_CHECKING:
    from coordinator.engine.aggregator_calls import AggregatorCalls
    from coordinator.settings import HeldOutSet
    from coordinator.store.blob_store import BlobStore

IDLE_S = 1.0
FULL_S = 5.0  # between tries on a disk that takes nothing

TURNS = (Aggregation, Completion, Verification, Preparation)  # clients wait for rounds, people for weights

log = structlog.get_logger("aggregator")


class Aggregator:
    """Looks for work and does it, a piece after the other."""

    def __init__(
        self,
        calls: AggregatorCalls,
        blobs: BlobStore,
        allow_pickle: bool = False,
        held_out: Mapping[str, HeldOutSet] | None = None,
    ) -> None:
        self._calls = calls
        self._doing = Doing(calls, blobs, allow_pickle, held_out or {})
        self._stop = asyncio.Event()
        self._in_hand: Work | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; then it ends the piece in hand first.

        Raises:
            ExceptionGroup: the lease is no longer renewed.
        """
        self._stop = stop
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._forgive()), group.create_task(self._keep_lease())]
            await self._until_stopped()
            for task in beside:
                task.cancel()

    async def _until_stopped(self) -> None:
        while not self._stop.is_set():
            await self._either(self._calls.leading())
            if self._stop.is_set():
                break
            mark, worked = self._calls.reader.mark(Effect.WAKE_AGGREGATOR), False
            try:
                worked = await self._work()
            except (StateUnavailable, LeaseLost) as error:
                log.warning("work_put_off", reason=str(error))
            if not worked:
                await self._calls.reader.wait_for_change(IDLE_S, mark, Effect.WAKE_AGGREGATOR)

    async def _keep_lease(self) -> None:
        """Whoever does not renew its lease looks alive and does nothing: the process ends, and is started again."""
        try:
            await self._calls.keep_lease()
        except Exception as error:
            log.critical("background_task_ended", task="lease", exc_info=error)
            raise

    async def _either(self, until: Coroutine[Any, Any, None]) -> None:
        """Waits for this, or for the wish to stop."""
        tasks = [asyncio.ensure_future(until), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _work(self) -> bool:
        """Does a piece of work; whether there was any."""
        pieces = [piece for job in await self._calls.reader.active_jobs() if (piece := piece_of(job))]
        full = False
        for piece in sorted(pieces, key=lambda piece: TURNS.index(type(piece))):
            about = {"round": piece.round.number} if isinstance(piece, Aggregation) else {}
            with structlog.contextvars.bound_contextvars(job=piece.job.id, piece=piece.name, **about):
                try:
                    if await self._serve(piece):
                        return True
                except (StateUnavailable, LeaseLost):
                    raise
                except NoRoom as error:
                    noted(error, again_in_s=FULL_S)
                    await self._calls.forget_attempts(piece.job.id, piece.name)
                    full = True
                except Exception:  # this job's, whatever it is: the others go on
                    log.exception("piece_failed")
        if full:
            await self._either(asyncio.sleep(FULL_S))
        return False

    async def _serve(self, piece: Work) -> bool:
        """Whether the piece is done; if not, the next piece may have its turn."""
        number = piece.round.number if isinstance(piece, Aggregation) else None
        attempt = await self._calls.begin_attempt(piece.job.id, piece.name, number)
        if not attempt:
            return False
        self._in_hand = piece
        reach(Fault.ATTEMPT_COUNTED)
        with timed(type(piece).__name__.lower()):
            posts = await self._doing.done(piece, attempt)
        for post in posts:
            await self._delivered(post)
        if posts:
            reach(Fault.RESULT_REPORTED)
            await self._calls.forget_attempts(piece.job.id, piece.name)
        self._in_hand = None
        return bool(posts)

    async def _forgive(self) -> None:
        """A process that was asked to stop may be killed at its piece: that is not the piece's fault."""
        await self._stop.wait()
        if self._in_hand is not None:
            with suppress(StateUnavailable):
                await self._calls.forget_attempts(self._in_hand.job.id, self._in_hand.name)

    async def _delivered(self, post: Post) -> None:
        """Makes the engine hear of a result, waiting for a store that is away: the result may have taken minutes.

        A job that was cancelled or a round that closed meanwhile is no error.
        """
        while True:
            try:
                await post()
            except StateUnavailable as error:
                if self._stop.is_set():
                    raise
                log.warning("state_unavailable", reason=str(error))
                await asyncio.sleep(IDLE_S)
                continue
            except LeaseLost as error:
                if self._stop.is_set():
                    raise
                log.warning("lease_lost", reason=str(error))  # Redis was away, perhaps; whoever has it may be as far
                await self._either(self._calls.leading())
                continue
            except DomainError as error:
                log.info("result_discarded", reason=str(error))
            return
