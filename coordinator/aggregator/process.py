"""The aggregator as a separate process: its settings, its signals, its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Literal

from coordinator.aggregator.exported import REGISTRY
from coordinator.aggregator.worker import Aggregator
from coordinator.settings import CoordinatorSettings, load
from fedgalore.measures.custom import CustomMetricError, allow
from fedgalore.process import faults
from fedgalore.process.leaving import end_at_once, end_within
from fedgalore.process.metrics_page import served
from fedgalore.process.settings import SettingsError
from fedgalore.process.threads import announced

if TYPE_CHECKING:
    from coordinator.engine.assembly import Engine
    from coordinator.store.blob_store import BlobStore


def build(settings: CoordinatorSettings, blobs: BlobStore) -> Engine:
    """An engine on the state that the settings name, under the aggregator's lease; it is to be closed."""
    from coordinator.engine.assembly import assemble
    from coordinator.engine.lease import AGGREGATOR, Lease
    from coordinator.store.binding import Binding
    from coordinator.store.redis_state_store import RedisStateStore

    store = RedisStateStore(settings.redis_url)
    lease = Lease(store, AGGREGATOR, settings.lease_s, Binding(store, blobs).must_hold)
    return assemble(store, presence_s=settings.presence_s, lease=lease)


async def serve(settings: CoordinatorSettings, until_stdin_closes: bool = False) -> None:
    """Runs until SIGTERM or SIGINT, or until the process that holds the other end of stdin is gone.

    Raises:
        SettingsError: the place of the blobs, or the port of the metrics, cannot be used.
    """
    from coordinator.store.opened import open_blobs, refusal

    try:
        blobs = open_blobs(settings.blob_dir, settings.blobs, settings.blob_cache_bytes)
    except OSError as error:
        raise SettingsError(refusal(settings.blob_dir, error)) from error
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, _stop, stop)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stop), daemon=True).start()
    # the first import takes seconds: before the first job asks
    await asyncio.to_thread(_import_torch, settings.threads)
    port = settings.aggregator_metrics_port
    with served(REGISTRY, settings.metrics_host, port, "FEDGALORE_AGGREGATOR_METRICS_PORT"):
        engine = build(settings, blobs)
        try:
            await Aggregator(engine.aggregator, blobs, settings.allow_pickle, settings.held_out).run(stop)
        finally:
            await engine.close()


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # Not through `sys.stdin`, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(_stop, stop)


def _stop(stop: asyncio.Event) -> None:
    stop.set()
    end_within()  # what it is at, another begins again


def _import_torch(threads: int | Literal["auto"]) -> None:
    import torch

    import coordinator.aggregator.compute  # noqa: F401

    torch.set_num_threads(announced(threads))
    gc.collect()
    gc.freeze()  # no collection in a round walks through what was imported


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
    end_at_once()
    faults.arm(settings.fault)
    try:
        allow(settings.metrics)
    except CustomMetricError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(settings, "--until-stdin-closes" in given))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
