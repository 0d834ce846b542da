"""Wiring: settings -> Redis, blobs, engine -> both doors and the driver, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog

from coordinator import descriptors, driver
from coordinator.doors.doorkeeper import Access, Doorkeeper
from coordinator.doors.grpc import server as grpc_server
from coordinator.doors.limits import DoorLimits
from coordinator.doors.oidc.people import People
from coordinator.doors.oidc.provider import Provider
from coordinator.doors.oidc.tokens import Expected
from coordinator.doors.opening import doors
from coordinator.doors.rest import server as rest_server
from coordinator.doors.rest.app import SignIn, create_app, nowhere
from coordinator.doors.rest.readiness import Probe
from coordinator.engine.assembly import assemble
from coordinator.engine.lease import DRIVER, Lease
from coordinator.settings import CoordinatorSettings
from coordinator.store.audit import AuditTrail
from coordinator.store.binding import Binding
from coordinator.store.garbage import Collector, MostToGo
from coordinator.store.opened import open_blobs, refusal
from coordinator.store.redis_credential_store import RedisCredentialStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.measures.custom import CustomMetricError, allow
from fedgalore.process import durable, faults, logs
from fedgalore.process.leaving import STOP_S, end_within
from fedgalore.process.settings import SettingsError
from fedgalore.version import __version__

BUCKET_THREADS = 32  # each of which holds a piece of an update at most
GRACE_S = 5  # for answers and transfers under way when the process has to stop

log = structlog.get_logger(__name__)


class CoordinatorError(RuntimeError):
    """The coordinator cannot run; the message says why and what to do."""


class StartError(CoordinatorError):
    """It cannot even start."""


def run(settings: CoordinatorSettings) -> None:
    """Serves until SIGTERM or SIGINT, then ends in order.

    Raises:
        StartError: an address is taken, the place of the blobs cannot be used, or settings of the doors do not fit.
        CoordinatorError: a part of it has ended while it ran.
    """
    logs.configure(settings.log_format, settings.log_level)
    faults.arm(settings.fault)
    asyncio.run(_until_signal(settings))


async def _until_signal(settings: CoordinatorSettings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    async with serving(settings, stopping):
        await stopping.wait()
        log.info("stop_requested")
        end_within(settings.drain_s + STOP_S)


@contextlib.asynccontextmanager
async def serving(settings: CoordinatorSettings, stopping: asyncio.Event) -> AsyncIterator[dict[str, int]]:
    """Runs a coordinator as long as the block; yields its ports as `{"rest": .., "grpc": ..}`.

    Redis may come later: until it does, the doors answer that the state is unavailable.

    Args:
        stopping: ends event streams when set; leaving the block sets it, and so does a part that ends by itself.

    Raises:
        StartError: an address is taken, the place of the blobs cannot be used, or settings of the doors do not fit.
        CoordinatorError: on leaving, a part had ended by itself.
    """
    try:
        plan = doors(settings)
        allow(settings.metrics)
    except (SettingsError, CustomMetricError) as error:
        raise StartError(str(error)) from error
    async with contextlib.AsyncExitStack() as stack:
        try:
            blobs = open_blobs(settings.blob_dir, settings.blobs, settings.blob_cache_bytes)
            blobs.check()
        except OSError as error:
            raise StartError(refusal(settings.blob_dir, error)) from error
        if settings.blobs is not None:  # calls wait for the network
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(BUCKET_THREADS))
        listener = stack.enter_context(_bound(settings))
        limits = _limits(settings)
        store = RedisStateStore(settings.redis_url)
        binding = Binding(store, blobs)
        lease = Lease(store, DRIVER, settings.lease_s, binding.must_hold)
        engine = assemble(
            store,
            presence_s=settings.presence_s,
            lease=lease,
            max_agents=settings.max_agents,
            max_jobs=settings.max_jobs,
        )
        stack.push_async_callback(engine.close)
        credentials = RedisCredentialStore(settings.redis_url)
        stack.push_async_callback(credentials.close)
        operator_key = settings.operator_key.get_secret_value() if settings.operator_key else None
        people = await stack.enter_async_context(_people(settings, plan.expected)) if plan.expected else None
        doorkeeper = Doorkeeper(credentials, plan.access, operator_key, check_state=binding.must_hold, people=people)
        provider = people.provider if people else None
        probe = Probe(settings.redis_url, blobs, binding, plan.tls.certificate if plan.tls else None, provider)
        stack.push_async_callback(probe.close)

        most_to_go = MostToGo(settings.sweep_share, settings.sweep_blobs)
        parts = {
            "lease": lease.keep(),
            "tick": driver.tick(engine.driver),
            "clean": driver.clean(engine.driver, blobs, Collector(store, blobs, binding, most_to_go)),
        }
        if provider is not None:
            parts["keep_provider"] = provider.keep()
        if settings.aggregator:
            parts["keep_aggregator"] = driver.keep_aggregator(settings.environment())
        trail = AuditTrail(store.connection, settings.audit_entries)
        try:
            door = await grpc_server.serve(
                engine.agents,
                blobs,
                doorkeeper,
                trail,
                settings.grpc_host,
                settings.grpc_port,
                plan.tls,
                limits,
                settings.direct_downloads,
            )
        except OSError as error:
            raise StartError(f"FEDGALORE_GRPC_PORT: {error}; choose another port, 0 for any") from error
        stack.push_async_callback(door.stop, GRACE_S)
        held_out = settings.held_out if settings.aggregator else None
        app = create_app(
            engine.people,
            blobs,
            probe,
            doorkeeper,
            trail,
            stopping,
            sees_models=settings.aggregator,
            held_out=held_out,
            limits=limits,
            origins=settings.cors_origins,
            sign_in=partial(_sign_in, settings, provider) if provider else nowhere,
        )
        await stack.enter_async_context(rest_server.serving(app, listener, plan.tls, limits, GRACE_S))
        stack.callback(stopping.set)
        await stack.enter_async_context(_working(parts, stopping, door, probe, settings.drain_s))

        ports = {"rest": listener.getsockname()[1], "grpc": door.port}
        how = {"tls": plan.tls is not None, "access": plan.access.name.lower()}
        log.info(
            "coordinator_started",
            version=__version__,
            redis=settings.redis_address,
            blobs=settings.blobs or str(settings.blob_dir),
            **ports,
            **how,
        )
        if plan.access is Access.PLAINTEXT:
            log.warning("plaintext_allowed", rest_host=settings.rest_host, grpc_host=settings.grpc_host)
        await _warn(probe)
        if settings.port_file is not None:
            settings.port_file.parent.mkdir(parents=True, exist_ok=True)
            with durable.appears_whole(settings.port_file) as draft:
                draft.write_text(json.dumps(ports), encoding="utf-8")
            stack.callback(settings.port_file.unlink, missing_ok=True)
        yield ports


@contextlib.asynccontextmanager
async def _working(
    parts: dict[str, Coroutine[Any, Any, None]],
    stopping: asyncio.Event,
    door: grpc_server.RunningServer,
    probe: Probe,
    drain_s: float,
) -> AsyncIterator[None]:
    """Runs what is beside the doors as long as the block. Then readiness says no and the leases are given up, so that
    another replica has them at once; the doors answer for `drain_s` seconds more.

    Raises:
        CoordinatorError: as `_background`.
    """
    async with _background(parts, stopping):
        try:
            yield
        finally:
            asked = time.monotonic()
            probe.leave()
            await door.leave()
    await asyncio.sleep(asked + drain_s - time.monotonic())  # not where a part has ended: its process is to start anew


@contextlib.asynccontextmanager
async def _people(settings: CoordinatorSettings, expected: Expected) -> AsyncIterator[People]:
    """Those of the identity provider, which was asked once; that it does not answer keeps nobody from starting."""
    try:
        provider = Provider(expected.issuer, settings.oidc_ca)
    except SettingsError as error:
        raise StartError(str(error)) from error
    async with contextlib.aclosing(provider):
        await provider.renew()
        yield People(provider, expected, settings.oidc_groups)


def _sign_in(settings: CoordinatorSettings, provider: Provider) -> SignIn:
    found = provider.found
    return SignIn(
        issuer=provider.issuer,
        client_id=settings.oidc_client_id,
        scopes=settings.oidc_scopes,
        token=settings.oidc_token,
        authorization_endpoint=found.authorization_endpoint if found else None,
        token_endpoint=found.token_endpoint if found else None,
    )


@contextlib.contextmanager
def _bound(settings: CoordinatorSettings) -> Iterator[socket.socket]:
    host, port = settings.rest_host, settings.rest_port
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(rest_server.bound(host, port))
        except socket.gaierror as error:
            raise StartError(
                f"FEDGALORE_REST_HOST: {host} is no address of this machine ({error}); name one"
            ) from error
        except OSError as error:
            raise StartError(
                f"FEDGALORE_REST_PORT: cannot listen on {host}:{port} ({error}); choose another port, 0 for any"
            ) from error
        yield listener


def _limits(settings: CoordinatorSettings) -> DoorLimits:
    """Those of the settings, with fewer connections where this process may not open so many files."""
    wanted = settings.max_connections
    most = descriptors.for_a_door(wanted)
    if most < wanted:
        log.warning("descriptors_few", wanted=wanted, connections=most)
    return DoorLimits(
        max_connections=most,
        max_connections_per_address=min(settings.max_connections_per_address, most),
        max_requests_per_key=settings.max_requests_per_key,
        max_calls_per_client=settings.max_calls_per_client,
    )


@contextlib.asynccontextmanager
async def _background(parts: dict[str, Coroutine[Any, Any, None]], stopping: asyncio.Event) -> AsyncIterator[None]:
    """Runs endless coroutines beside the block. A coroutine that ends all the same is logged and sets `stopping`.

    Raises:
        CoordinatorError: on leaving, if a coroutine had ended.
    """
    ended: list[str] = []

    def note(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        log.critical("background_task_ended", task=task.get_name(), exc_info=error)
        ended.append(f"{task.get_name()} ({type(error).__name__}: {error})" if error else task.get_name())
        stopping.set()

    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    for task in tasks:
        task.add_done_callback(note)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if ended:
        # A coordinator without its clock looks alive and does nothing: whoever watches the process starts it again.
        raise CoordinatorError(f"ended by itself: {', '.join(ended)}; the log has more. Start the coordinator again")


async def _warn(probe: Probe) -> None:
    readiness = await probe.readiness()
    for name, check in readiness.checks.items():
        if not check.ok:
            log.warning("readiness_failed", check=name, reason=check.detail)
    for warning in readiness.warnings:
        log.warning("readiness_doubted", reason=warning)
