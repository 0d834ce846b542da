"""The agents' door as a gRPC server: the service with health and reflection, on an address."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.doors.grpc.audit import CallAudit
from coordinator.doors.grpc.calls import Calls
from coordinator.doors.grpc.connections import Connections
from coordinator.doors.grpc.service import Federation
from coordinator.doors.limits import HANDSHAKE_S, DoorLimits
from protos import (
    KEEPALIVE_TIMEOUT_MS,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    PING_TIMEOUT_MS,
    federation_pb2_grpc,
)
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from coordinator.doors.doorkeeper import Doorkeeper
    from coordinator.doors.opening import Tls
    from coordinator.engine.agent_calls import AgentCalls
    from coordinator.store.audit import AuditTrail
    from coordinator.store.blob_store import BlobStore

SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.so_reuseport", 0),  # a second coordinator on this port must fail, not share it
    # A vanished agent is noticed, so that its half-open upload does not keep the next upload out.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_S)),  # of TLS and HTTP/2
    # A call's window does not grow beyond the message that is read: else one client's calls hold hundreds of megabytes.
    ("grpc.http2.bdp_probe", 0),
]


@dataclass
class RunningServer:
    """A started server, which listens on `port`."""

    port: int
    _server: grpc.aio.Server = field(repr=False)
    _federation: Federation = field(repr=False)
    _calls: Calls = field(repr=False)
    _health: Any = field(repr=False)
    _keeping: asyncio.Task[None] = field(repr=False)

    async def leave(self) -> None:
        """Its health says NOT_SERVING from now on; it answers as before."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Answers waiting polls, lets transfers go on for `grace_s` seconds, then ends them; they can be resumed."""
        self._federation.stopping.set()
        await self.leave()
        await self._server.stop(grace_s)
        await self._calls.ended()  # what they still write meets an open store
        self._keeping.cancel()
        await asyncio.wait([self._keeping])


async def serve(
    agents: AgentCalls,
    blobs: BlobStore,
    doorkeeper: Doorkeeper,
    trail: AuditTrail,
    host: str,
    port: int,
    tls: Tls | None = None,
    limits: DoorLimits | None = None,
    direct_downloads: bool = False,
) -> RunningServer:
    """Opens the agents' door with the standard health and reflection services; port 0 takes any free port.

    Raises:
        OSError: the address cannot be bound.
    """
    limits = limits or DoorLimits()
    connections = Connections(limits)
    calls = Calls(limits, connections, CallAudit(trail))
    server = grpc.aio.server(
        interceptors=[calls],
        options=[
            *_OPTIONS,
            ("grpc.max_allowed_incoming_connections", limits.max_connections),
            ("grpc.max_concurrent_streams", limits.max_connections_per_address),  # a proxy may join many agents
        ],
    )
    federation = Federation(agents, blobs, doorkeeper, calls, direct_downloads)
    federation_pb2_grpc.add_FederationServicer_to_server(federation, server)  # type: ignore[no-untyped-call]
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, tls.grpc_credentials())
    except RuntimeError as error:
        raise OSError(f"the agents' door cannot listen on {host}:{port}: {error}") from error
    await server.start()
    for service in ("", SERVICE):
        await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    connections.port = bound
    keeping = asyncio.create_task(connections.keep(), name="connections")
    return RunningServer(bound, server, federation, calls, checks, keeping)
