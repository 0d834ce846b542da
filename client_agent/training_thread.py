"""A thread in which models are loaded and trained, so that the agent's event loop stays free for heartbeats."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from client_agent.trainer import Trainer  # with torch: imported when the first task comes

T = TypeVar("T")


class TrainingThread:
    """Runs work on the agent's `Trainer`, a piece at a time."""

    def __init__(self, device: Literal["auto", "cpu", "cuda"], threads: int | Literal["auto"]) -> None:
        self._device: Literal["auto", "cpu", "cuda"] = device
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trainer")
        self._halt = threading.Event()
        self._trainer: Trainer | None = None

    def goes_on(self) -> bool:
        """Whether the work should go on. The work asks wherever it can stop."""
        return not self._halt.is_set()

    async def run(self, work: Callable[[Trainer], T]) -> T:
        """The work's result. When cancelled, asks the work to stop and waits until it has."""
        self._halt.clear()
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(self._start()))
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

    def _start(self) -> Trainer:
        if self._trainer is None:
            from client_agent.trainer import Trainer

            self._trainer = Trainer(self._device, self._threads)
        return self._trainer
