"""A thread in which models are loaded and trained, so that the agent's event loop stays free for heartbeats."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

from client_agent.errors import OutOfMemory
from client_agent.machine import Device
from fedgalore.process.memory import is_short
from fedgalore.spec.documents import printable

if TYPE_CHECKING:
    from client_agent.trainer import Trainer  # with torch: imported when the first task comes

MOST_TOLD = 160  # characters of an error

T = TypeVar("T")


class TrainingThread:
    """Runs work on the agent's `Trainer`, a piece at a time."""

    def __init__(self, device: Device, threads: int | Literal["auto"], memory_bytes: int | None = None) -> None:
        """`memory_bytes`: what a job's model may take of the GPUs; None: all."""
        self._device, self._threads, self._memory_bytes = device, threads, memory_bytes
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trainer")
        self._halt = threading.Event()
        self._trainer: Trainer | None = None

    def goes_on(self) -> bool:
        """Whether the work should go on. The work asks wherever it can stop."""
        return not self._halt.is_set()

    async def run(self, work: Callable[[Trainer], T]) -> T:
        """The work's result. When cancelled, asks the work to stop and waits until it has.

        Raises:
            OutOfMemory: there was too little; the trainer is as if it had never held a model.
        """
        self._halt.clear()
        known = contextvars.copy_context()  # what lines of the log say of the task
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: known.run(self._done, work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._halt.set()
            await asyncio.wait({future})
            future.exception()  # retrieved, because asyncio logs an exception that nobody retrieves
            raise

    def close(self) -> None:
        """Ends the thread. No work may be running."""
        self._executor.shutdown()

    def _done(self, work: Callable[[Trainer], T]) -> T:
        trainer = self._start()
        try:
            return work(trainer)
        except Exception as error:
            if not is_short(error):
                raise
            problem = _forgotten(error)
        trainer.let_go()
        raise OutOfMemory(problem)

    def _start(self) -> Trainer:
        if self._trainer is None:
            from client_agent.trainer import Trainer

            self._trainer = Trainer(self._device, self._threads, self._memory_bytes)
        return self._trainer


def _forgotten(error: BaseException) -> str:
    """The root of an error in short, once all of its errors have let go of what their frames held."""
    for each in (chain := [*_causes(error)]):
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
    root, *_ = str(chain[-1]).strip().split("\n")
    return printable(root or type(chain[-1]).__name__, MOST_TOLD)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
