"""The agent's loop: performs what the session says, and feeds it what came of that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import grpc
import structlog

from client_agent import session as on
from client_agent.assignment import Assignment, SiteContext
from client_agent.cache import Cache
from client_agent.credential import Line
from client_agent.data import LocalData
from client_agent.errors import AgentError, AgentRefused, AgentUnknown, CoordinatorAway, NoRoom, OutOfMemory, RoundOver
from client_agent.exported import Exported
from client_agent.instance import instance_of
from client_agent.retries import words
from client_agent.room import PATIENCE_S, room_in, waits
from client_agent.session import IllegalEvent, Session, SessionEvent, SessionState, advance
from client_agent.settings import AgentSettings
from client_agent.site_check import check_site
from client_agent.site_log import SiteLog
from client_agent.training_thread import TrainingThread
from client_agent.transport import TAKEN, Transport
from fedgalore.process.disk import takes_nothing
from fedgalore.process.faults import Fault, reach
from fedgalore.spec.relief import Doing
from protos import WAITS
from protos import federation_pb2 as pb

POLL_S = 30.0
HEARTBEAT_S = 2.0
MAX_STAGE = 200  # characters
_STAGES = {
    SessionState.PREPARING: "download",
    SessionState.EVALUATING: "evaluate",
    SessionState.TRAINING: "train",
    SessionState.UPLOADING: "upload",
}
_DOING: dict[SessionState, Doing] = {
    SessionState.PREPARING: "loading its model",
    SessionState.EVALUATING: "evaluating",
    SessionState.TRAINING: "training",
}


class Agent:
    """One client's process. `run` serves until `stop`, or until the coordinator refuses the client."""

    def __init__(self, settings: AgentSettings, data: Mapping[str, LocalData], line: Line | None = None) -> None:
        own = replace(line or Line(), instance=instance_of(settings.work_dir))
        self._site = SiteContext(
            settings,
            data,
            Cache(settings.work_dir),
            SiteLog(settings.work_dir),
            Transport(settings.coordinator, settings.name, line=own, direct_hosts=settings.direct_hosts),
            TrainingThread(settings.device, settings.threads, settings.memory_bytes),
        )
        self._session = Session()
        self._assignment: Assignment | None = None
        self._check: pb.Task | None = None
        self._hindrance = ""  # why the state's action waits
        self._stop = asyncio.Event()
        self._log = structlog.get_logger(__name__)
        self.exported = Exported(lambda: not self._site.transport.is_away)

    def stop(self) -> None:
        """Makes `run` return soon: training ends at its next step, a transfer at once; a restart goes on with both."""
        self._stop.set()

    async def run(self) -> int:
        """Serves; returns the exit code."""
        try:
            while self._session.exit_code is None:
                before, work = self._session.state, self._session.work
                about = {"job": work.job_id, "round": work.round} if work else {}
                with structlog.contextvars.bound_contextvars(**about):
                    event = await self._perform()
                self._move(event)
                if self._session.state is SessionState.IDLE and before is not SessionState.IDLE:
                    await self._tidy()
                if isinstance(event, on.Dropped | on.Forgotten):  # the same task may come back at once: no frenzy
                    await asyncio.sleep(random.uniform(0.2, 1.0))
        finally:
            self._site.cache.begun.end()  # whatever ends the process in order is no death at a task
            await self._site.transport.close()
            self._site.thread.close()
        return self._session.exit_code

    def _move(self, event: SessionEvent) -> None:
        before, self._session = self._session, advance(self._session, event)
        self.exported.moved(before, event, self._session)
        work, state, reason = self._session.work, self._session.state, self._session.reason
        log = self._log.bind(job=work.job_id, round=work.round) if work else self._log
        if state is SessionState.FAILING or isinstance(event, on.Dropped | on.Refused):
            log.warning("state_changed", state=state.value, reason=reason)
        elif state is not before.state:
            log.info("state_changed", state=state.value, reason=reason)

    async def _perform(self) -> SessionEvent:
        """What ends the session's state: the outcome of its action, a round that closed, or the wish to stop."""
        if self._stop.is_set():
            return on.Stop()
        state = self._session.state
        tasks = [asyncio.create_task(self._patient(state)), asyncio.create_task(self._stopped())]
        if state in _STAGES:
            tasks.append(asyncio.create_task(self._heartbeats(state, self._in_hand)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stopped(self) -> SessionEvent:
        await self._stop.wait()
        return on.Stop()

    async def _heartbeats(self, state: SessionState, assignment: Assignment) -> SessionEvent:
        """Reports where the task stands; returns when the coordinator says that its round is over."""
        while True:
            try:
                stage = f"{WAITS}{self._hindrance}"[:MAX_STAGE] if self._hindrance else _STAGES[state]
                answer = await self._site.transport.heartbeat(assignment.report(stage))
                if not answer.go_on and state is not SessionState.UPLOADING:  # an upload gets its answer by itself
                    return on.Dropped(answer.reason)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:  # revoked: no use in training on
                    return on.Forgotten(words(error))
                if error.code() is TAKEN:
                    return on.Refused(words(error))
                # What must arrive is sent elsewhere, with retries.
                self._log.debug("heartbeat_failed", status=error.code().name)
            await asyncio.sleep(HEARTBEAT_S)

    async def _patient(self, state: SessionState) -> SessionEvent:
        """The outcome of the state's action. Where the disk takes nothing more, it is tried again, and given up in time
        for another site to step in."""
        in_hand = self._assignment if state in _STAGES else None
        tries = waits(min(PATIENCE_S, in_hand.remaining_s / 3) if in_hand else 0.0)
        try:
            while True:
                try:
                    with room_in(self._site.settings.work_dir):
                        return await self._guarded(state)
                except NoRoom as error:
                    wait_s = next(tries, None)
                    if wait_s is None or in_hand is None:
                        return on.Failed(str(error))
                    self._hindrance = str(error)
                    self._log.warning(
                        "no_room", folder=str(self._site.settings.work_dir), reason=self._hindrance, again_in_s=wait_s
                    )
                    await asyncio.sleep(wait_s)
                    await asyncio.to_thread(in_hand.make_room)
        finally:
            self._hindrance = ""

    async def _guarded(self, state: SessionState) -> SessionEvent:
        """The outcome of the state's action, with its errors as events."""
        try:
            return await self._action(state)
        except AgentRefused as error:
            return on.Refused(str(error))
        except AgentUnknown as error:
            return on.Forgotten(str(error))
        except CoordinatorAway as error:
            return on.Dropped(str(error))
        except RoundOver as error:  # its update stays: another round may ask for the same
            return on.Dropped(str(error))
        except NoRoom:
            raise
        except OutOfMemory as error:
            return on.Failed(self._in_hand.out_of_memory(error, _DOING[state]))
        except AgentError as error:
            if state in _STAGES and takes_nothing(error):
                raise
            if state in (SessionState.FAILING, SessionState.CHECKING):
                return on.Dropped(str(error))
            if state not in _STAGES:  # what comes from this coordinator makes no sense
                return on.Refused(str(error))
            self._forget_updates()
            return on.Failed(str(error), error.code)
        except Exception as error:
            if state not in _STAGES or takes_nothing(error):
                raise
            # Whatever went wrong in this job, the site goes on serving others.
            self._log.exception("task_failed", state=state.value)
            return on.Failed(f"the task broke ({type(error).__name__}); the agent's log has why")

    def _forget_updates(self) -> None:
        if self._assignment is not None:
            self._assignment.forget_updates()

    async def _tidy(self) -> None:
        """After each task, however it ended."""
        if self._assignment is None:
            return
        try:
            await self._assignment.ended(self._session.reason)
            await asyncio.to_thread(self._assignment.tidy)
            reach(Fault.TIDIED)
        except OSError as error:
            self._log.warning("tidying_failed", reason=str(error))

    async def _action(self, state: SessionState) -> SessionEvent:
        site = self._site
        if state is SessionState.REGISTERING:
            await site.transport.register({name: len(data.train.examples) for name, data in site.data.items()})
            return on.Registered()
        if state is SessionState.IDLE:
            task = await site.transport.next_task(POLL_S)
            if task is None:
                return on.NoTask()
            if task.kind == pb.Task.KIND_CHECK:
                self._check = task
                return on.Offered(on.Work(task.job_id, task.round, trains=False, evaluates=False, checks=True))
            self._assignment = Assignment(task, site)
            reach(Fault.TASK_RECEIVED)
            return on.Offered(self._assignment.work())
        if state is SessionState.CHECKING and self._check is not None:
            await check_site(self._check, site)
            return on.Done()
        assignment = self._in_hand
        if state is SessionState.FAILING:
            await assignment.fail(self._session.reason, self._session.code)
            return on.Done()
        actions: dict[SessionState, Callable[[], Awaitable[None]]] = {
            SessionState.PREPARING: assignment.prepare,
            SessionState.EVALUATING: assignment.evaluate,
            SessionState.TRAINING: assignment.train,
            SessionState.UPLOADING: assignment.upload,
        }
        await actions[state]()
        return on.Done()

    @property
    def _in_hand(self) -> Assignment:
        """The assignment of a state that has one.

        Raises:
            IllegalEvent: no task was offered yet.
        """
        if self._assignment is None:
            raise IllegalEvent(f"no task is in hand while {self._session.state}")
        return self._assignment
