"""What keeps a coordinator going beside its doors: ticks, cleaning, and the aggregator process.

All of it is level-triggered: each step looks at the state and does what is missing, so nothing is lost by stopping
anywhere. Of several coordinators on a Redis, the holder of the lease ticks and cleans.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

from coordinator.engine.clock import steady_clock
from coordinator.engine.driver_calls import DriverCalls
from coordinator.state.errors import LeaseLost, StateUnavailable
from coordinator.state.round_state import Effect
from coordinator.store.binding import NotBound
from coordinator.store.blob_store import BlobStore
from coordinator.store.contradictions import StateContradicts
from coordinator.store.garbage import Collector, TooMuchToGo
from coordinator.store.partials import clean_partials

TICK_S = 0.3
LEAST_TICK_S = 0.005  # a burst of changes is worth a single look
CLEAN_S = 20.0
LEAST_CLEAN_S = 1.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STEADY_S = 60.0  # a child that lived this long starts afresh with the first delay
STOP_S = 10.0

log = structlog.get_logger(__name__)


async def tick(calls: DriverCalls) -> None:
    """Ticks every active job whenever that may do something, and every `TICK_S` seconds for the sake of deadlines."""
    answering = True
    while True:
        await calls.leading()
        mark = calls.reader.mark(Effect.WAKE_DRIVER)
        try:
            await calls.tick_all()
            answering = True
        except LeaseLost:
            continue
        except StateUnavailable as error:
            if answering:  # once an outage
                log.warning("state_unavailable", reason=str(error))
            answering = False
        except Exception:  # a broken job must not stop the others' clock
            log.exception("tick_failed")
        await asyncio.sleep(LEAST_TICK_S)
        await calls.reader.wait_for_change(TICK_S, mark, Effect.WAKE_DRIVER)


async def clean(calls: DriverCalls, blobs: BlobStore, collector: Collector) -> None:
    """Removes blobs that no job needs and what broken uploads of closed rounds left behind: now and then, and when a
    job was deleted."""
    clock = steady_clock()
    while True:
        await calls.leading()
        mark = calls.reader.mark(Effect.WAKE_COLLECTOR)
        with suppress(StateUnavailable, OSError):  # it passes, and what an earlier look found stands
            refusal = await _cleaned(calls, blobs, collector, clock())
            await calls.note_refusal(refusal)
        await asyncio.sleep(min(CLEAN_S, LEAST_CLEAN_S))
        await calls.reader.wait_for_change(CLEAN_S, mark, Effect.WAKE_COLLECTOR)


async def _cleaned(calls: DriverCalls, blobs: BlobStore, collector: Collector, now: float) -> str | None:
    """Cleans once; what people should know if nothing was deleted.

    Raises:
        StateUnavailable, OSError: the state store or the blob store does not answer; it is logged.
    """
    try:
        if freed := await collector.collect(now):
            log.info("blobs_collected", freed_bytes=freed)
        # After the collector, which refuses a state that these files do not belong to.
        if removed := await clean_partials(blobs, calls.reader.versions_to_come):
            log.info("uploads_cleaned", removed=removed)
    except (StateContradicts, TooMuchToGo, NotBound) as error:
        log.error("cleaning_failed", reason=str(error))
        return None if isinstance(error, NotBound) else str(error)  # what is not bound is no place for a note
    except (StateUnavailable, OSError) as error:
        log.warning("cleaning_failed", reason=str(error))
        raise
    except Exception as error:  # the disk must not fill up because of a broken look
        log.exception("cleaning_failed")
        return f"no blob is deleted: the look at the state failed ({error}); the coordinator's log has more"
    return None


async def keep_aggregator(environment: Mapping[str, str]) -> None:
    """Runs the aggregator as a child process and starts it again when it ends; cancelled, it ends the child.

    Args:
        environment: all variables of the child.
    """
    delay_s = FIRST_DELAY_S
    while True:
        started = time.monotonic()
        try:
            ended: dict[str, object] = {"status": await _run_aggregator(environment)}
        except OSError as error:  # no memory, no file descriptors, no such program
            ended = {"reason": f"cannot be started ({error})"}
        if time.monotonic() - started >= STEADY_S:
            delay_s = FIRST_DELAY_S
        log.error("aggregator_ended", **ended, again_in_s=delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


async def _run_aggregator(environment: Mapping[str, str]) -> int:
    """One child to its end; its exit status.

    Raises:
        OSError: it cannot be started.
    """
    # The child ends when its stdin does, so it does not outlive even a killed coordinator.
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator.aggregator", "--until-stdin-closes"),
        stdin=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C at the terminal reaches us, and we end the child in order
    )
    log.info("aggregator_started", pid=child.pid)
    try:
        return await child.wait()
    except asyncio.CancelledError:
        await _end(child)
        raise


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await child.wait()
    except TimeoutError:
        log.warning("aggregator_killed", pid=child.pid)
        child.kill()
        await child.wait()
