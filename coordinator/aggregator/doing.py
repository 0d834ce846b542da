"""What becomes of a piece of the aggregator's work: it is done, tried again or given up, and the engine hears."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from coordinator.aggregator.pieces import Aggregation, Completion, Preparation, Verification, Work
from coordinator.models.choice import chosen
from coordinator.state import whole
from coordinator.state.errors import DomainError, StateUnavailable
from coordinator.state.job_events import LoadedBack
from coordinator.store.refusals import passes
from fedgalore.process.faults import Fault, reach
from fedgalore.process.memory import is_short
from fedgalore.spec.census import Census
from fedgalore.spec.start import job_version

if TYPE_CHECKING:
    from coordinator.aggregator.compute import UpdatesDamaged
    from coordinator.aggregator.weights import ChainBroken
    from coordinator.engine.aggregator_calls import AggregatorCalls
    from coordinator.settings import HeldOutSet
    from coordinator.state.job_state import Job, Prepared
    from coordinator.state.round_state import ModelVersion
    from coordinator.store.blob_store import BlobStore

ATTEMPTS = 3  # at a piece of work before it is given up
AGAIN_S = 1.0  # between two of them

P = ParamSpec("P")
T = TypeVar("T")
Post = Callable[[], Awaitable["Job"]]  # says what became of a piece of work
log = structlog.get_logger("aggregator")


class NoRoom(Exception):
    """The disk takes nothing more, or the bucket is away, which is nobody's fault: the piece is begun again as soon as
    that has passed."""


class Doing:
    """Does pieces of work, a piece after the other."""

    def __init__(
        self, calls: AggregatorCalls, blobs: BlobStore, allow_pickle: bool, held_out: Mapping[str, HeldOutSet]
    ) -> None:
        self._calls = calls
        self._blobs = blobs
        self._allow_pickle = allow_pickle
        self._held_out = held_out

    async def done(self, piece: Work, attempt: int) -> list[Post]:
        """What the engine has to hear of a piece; nothing when it is to be tried again.

        Args:
            attempt: how often it was begun, this time included.

        Raises:
            NoRoom: the disk is full.
            StateUnavailable: Redis is away.
        """
        match piece:
            case Preparation():
                return [await self._prepare(piece, attempt)]
            case Aggregation():
                return await self._aggregate(piece, attempt)
            case Completion():
                return await self._make_whole(piece, attempt)
            case Verification():
                return await self._load_back(piece, attempt)

    async def _prepare(self, piece: Preparation, attempt: int) -> Post:
        """Makes version 0; what the job has to hear of it."""
        refuse = partial(self._calls.preparation_failed, piece.job.id)
        if attempt > ATTEMPTS:
            reason = f"the aggregator ended {ATTEMPTS} times while reading model.source: too little memory?"
            log.error("preparation_given_up", reason=reason)
            return partial(refuse, reason)

        from coordinator.aggregator import compute as aggregation
        from coordinator.aggregator.held_out import HeldOutError

        try:
            start = await self._start(piece.job)
            if start is None:
                prepared = await self._compute(aggregation.prepare, piece.job.parsed, self._blobs, self._allow_pickle)
            else:
                prepared = await self._compute(aggregation.prepare_from, *start, piece.job.parsed, self._blobs)
            measured = await self._measured(piece.job, prepared, prepared.model)
            prepared = replace(prepared, model=measured)
        except (NoRoom, StateUnavailable):
            raise
        except DomainError as error:  # it was there when the job was posted
            reason = f"model.source: {error}; post the job again with another source"
            log.error("model_refused", reason=reason)
            return partial(refuse, reason)
        except (aggregation.PreparationError, HeldOutError, OSError) as error:
            log.error("model_refused", reason=str(error))
            return partial(refuse, str(error))
        except Exception as error:  # a checkpoint can break transformers in any way; the job must hear of it
            log.exception("preparation_failed")
            if is_short(error):
                return partial(refuse, f"model.source: {_told(error)}, or take a smaller model")
            return partial(refuse, f"model.source: transformers could not load it ({_told(error)})")
        census = Census(**prepared.plan["census"])
        log.info("model_prepared", targets=len(prepared.plan["targets"]), trains=census.summary())
        return partial(self._calls.prepared, piece.job.id, prepared)

    async def _start(self, job: Job) -> tuple[Job, ModelVersion] | None:
        """The version of another job that this one starts from; None where it starts from a model folder.

        Raises:
            JobNotFound, JobUnreadable, NotReady, VersionNotFound: it is gone.
        """
        if (start := job_version(job.parsed.model.source)) is None:
            return None
        old = await self._calls.reader.job(start.job_id)
        return old, await chosen(old, str(start.version), self._calls.reader.version)

    async def _aggregate(self, piece: Aggregation, attempt: int) -> list[Post]:
        """Makes the next version; what the round has to hear of it, nothing when it is to be tried again."""
        abandon = partial(self._calls.aggregation_failed, piece.job.id, piece.round.number)
        if attempt > ATTEMPTS:
            reason = f"the aggregator ended {ATTEMPTS} times while at it: too little memory?"
            log.error("round_given_up", reason=reason)
            return [partial(abandon, reason)]

        from coordinator.aggregator import compute as aggregation
        from coordinator.aggregator.weights import ChainBroken
        from fedgalore.maths.bounds import OutOfBounds
        from fedgalore.soundness import TooFewLeft

        try:
            done = await self._compute(aggregation.aggregate, piece.job, self._blobs, aggregation.best_device())
        except NoRoom:
            raise
        except aggregation.UpdatesDamaged as error:
            return self._asked_again(piece, error)
        except ChainBroken as error:
            return [partial(abandon, self._damaged(piece.job, error), lost=True)]
        except TooFewLeft as error:
            reason = str(error) if error.left else f"{error}; {whole.way_back(piece.job, piece.round.model_version)}"
            log.error("updates_unfit", reason=reason)
            return [partial(abandon, reason, dropped=error.dropped)]
        except OutOfBounds as error:
            reason = self._beyond(piece.job, piece.round.model_version, error)
            return [partial(abandon, reason)]
        except Exception as error:  # whatever it is, the round must end
            log.exception("aggregation_failed", attempt=attempt)
            if attempt >= ATTEMPTS:
                return [partial(abandon, _told(error))]
            await asyncio.sleep(AGAIN_S)
            return []
        if odd := [name for name, value in {**done.timings, **done.statistics}.items() if not isfinite(value)]:
            reason = f"{', '.join(odd)} of the aggregate is not finite: what clients sent is out of all proportion"
            log.error("aggregate_refused", reason=reason)
            return [partial(abandon, reason)]
        log.info("round_aggregated", version=done.model.version, **done.timings)
        model = await self._measured_or_not(piece, done.model)
        result = (model, done.timings, done.statistics, done.dropped, done.alignment)
        return [partial(self._calls.aggregated, piece.job.id, piece.round.number, *result)]

    async def _make_whole(self, piece: Completion, attempt: int) -> list[Post]:
        """Makes a version's whole weights; what the job has to hear of that, nothing when it is to be tried again."""
        lost = partial(self._calls.weights_lost, piece.job.id, piece.version)
        if attempt > ATTEMPTS:
            reason = (
                f"the aggregator ended {ATTEMPTS} times at the weights of version {piece.version}: too little memory?"
            )
            log.error("weights_given_up", version=piece.version, reason=reason)
            return [partial(lost, reason)]

        from coordinator.aggregator import compute as aggregation
        from coordinator.aggregator.weights import ChainBroken
        from fedgalore.maths.bounds import OutOfBounds

        try:
            model = await self._version(piece.job, piece.version)
            weights = await self._compute(aggregation.whole_weights, piece.job, model, self._blobs)
        except (NoRoom, StateUnavailable):
            raise
        except ChainBroken as error:
            return [partial(lost, self._damaged(piece.job, error))]
        except OutOfBounds as error:
            return [partial(lost, self._beyond(piece.job, piece.version, error))]
        except Exception as error:  # whatever it is, who waits for the weights must hear of it
            log.exception("weights_failed", version=piece.version, attempt=attempt)
            if attempt >= ATTEMPTS:
                return [partial(lost, f"the weights of version {piece.version} cannot be made ({_told(error)})")]
            await asyncio.sleep(AGAIN_S)
            return []
        reach(Fault.WEIGHTS_STORED)
        log.info("weights_made", version=piece.version)
        return [partial(self._calls.weights_made, piece.job.id, piece.version, weights)]

    @staticmethod
    def _damaged(job: Job, error: ChainBroken) -> str:
        """Why a version cannot be made of what is stored, and the way out."""
        reason = f"{error}; {whole.remedy(job, error.version)}"
        log.error("version_damaged", reason=reason)
        return reason

    @staticmethod
    def _beyond(job: Job, version: int, error: Exception) -> str:
        """Why weights are not written, where no one update makes them unfit, and the way out."""
        reason = f"weights would be written that are not fit: {error}; {whole.way_back(job, version)}"
        log.error("weights_unfit", version=version, reason=reason)
        return reason

    async def _version(self, job: Job, number: int) -> ModelVersion:
        """A version that the job has had.

        Raises:
            KeyError: it never had it.
        """
        found = await self._calls.reader.version(job, number)
        if found is None:
            raise KeyError(number)
        return found

    async def _load_back(self, piece: Verification, attempt: int) -> list[Post]:
        """Loads the final model as a user would; how the job ends, nothing when it is to be tried again."""
        end = partial(self._calls.loaded_back, piece.job.id)
        looked_at = partial(LoadedBack, piece.job.ready().model.version)
        if attempt > ATTEMPTS:
            reason = f"the aggregator ended {ATTEMPTS} times while it loaded the model back: too little memory?"
            log.error("model_unchecked", reason=reason)
            return [partial(end, looked_at(unchecked=f"nobody has looked at its download, because {reason}"))]

        from coordinator.aggregator import compute as aggregation
        from coordinator.aggregator import load_back

        try:
            found = await self._compute(load_back.differences, piece.job, self._blobs, aggregation.best_device())
        except NoRoom:
            raise
        except Exception as error:  # whatever it is, the job must end
            log.exception("loading_back_failed", attempt=attempt)
            if attempt < ATTEMPTS:
                await asyncio.sleep(AGAIN_S)
                return []
            reason = f"its download cannot be looked at ({_told(error)})"
            small = is_short(error)
            return [partial(end, looked_at(unchecked=reason) if small else looked_at(difference=reason))]
        if found is None:
            log.info("model_loaded_back")
        else:
            log.error("model_differs", reason=found)
        return [partial(end, looked_at(difference=found))]

    async def _measured(self, job: Job, prepared: Prepared, model: ModelVersion) -> ModelVersion:
        """The version with its evaluation on the job's held-out set, where the job wants one.

        Raises:
            HeldOutError: the set is unknown, cannot be read, or does not fit the job.
        """
        spec = job.parsed
        if not spec.measures_centrally(job.rounds_behind(model.version)):
            return model
        from coordinator.aggregator import compute, held_out

        device = compute.best_device()
        work = partial(held_out.measure, spec, prepared, model, self._held_out, self._blobs, device)
        return replace(model, held_out=await self._compute(work))

    async def _measured_or_not(self, piece: Aggregation, model: ModelVersion) -> ModelVersion:
        """A version that is made is not lost because it cannot be evaluated."""
        try:
            return await self._measured(piece.job, piece.job.ready().prepared, model)
        except NoRoom:
            raise
        except Exception as error:
            log.exception("held_out_failed", version=model.version, reason=str(error))
            foreseen = isinstance(error, ValueError | OSError)
            return replace(model, held_out_failure=str(error) if foreseen else _told(error))

    def _asked_again(self, piece: Aggregation, error: UpdatesDamaged) -> list[Post]:
        """The clients whose updates cannot be read send them once more."""
        posts: list[Post] = []
        for client in error.clients:
            blob = piece.round.receipts[client].blob
            log.error("update_damaged", client=client, blob=blob.sha256)
            reason = f"blob {blob.sha256[:12]}, its update, was damaged on the coordinator's disk"
            posts.append(partial(self._calls.update_lost, piece.job.id, piece.round.number, client, blob, reason))
        return posts

    @staticmethod
    async def _compute(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The work's result, from a thread.

        Raises:
            NoRoom: the disk is full, or the bucket is away, whatever the work made of that.
        """
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except Exception as error:
            if passes(error):
                raise NoRoom(str(error)) from error
            raise


def _told(error: Exception) -> str:
    """An error that nothing foresaw; where memory was short, with the way out."""
    problem = f"{type(error).__name__}: {error}"
    return f"{problem}; the aggregator has too little memory, give it more" if is_short(error) else problem
