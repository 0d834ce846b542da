"""Around every call of the agents' door: its message comes in time, its answer is taken in time, what it raises reaches
the agent as a status, and no caller has more calls at a time than its share.

A call counts for the address that it comes from until it has shown whose it is, then for that client. Over a connection
that has shown a client's key before, it counts for that connection first.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import grpc

from coordinator.doors.grpc.audit import Account
from coordinator.doors.grpc.connections import peer_of
from coordinator.doors.grpc.counts import CALLS
from coordinator.doors.grpc.guard import status_of
from coordinator.doors.limits import MESSAGE_S, STALL_S, Places, holder_of
from coordinator.state.errors import DomainError, InvalidRequest, Stalled
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.doors.grpc.audit import CallAudit
    from coordinator.doors.grpc.connections import Connections
    from coordinator.doors.grpc.guard import Context
    from coordinator.doors.limits import DoorLimits


_METHODS = {method.name for method in pb.DESCRIPTOR.services_by_name["Federation"].methods}
_END = grpc.aio.EOF  # type: ignore[attr-defined]
READ_AT_ONCE = 32  # messages over the connections of an address that have shown no key: each may take 4 MiB


class Calls(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """One a server."""

    def __init__(self, limits: DoorLimits, connections: Connections, audit: CallAudit) -> None:
        self._visitors = Places(
            "calls that have not shown whose they are yet",
            limits.max_connections_per_address,
            "max_connections_per_address",
            in_all=limits.max_connections,
        )
        self._clients = Places("calls", limits.max_calls_per_client, "max_calls_per_client")
        self._connections = connections
        self._audit = audit
        self._held: dict[Context, tuple[Places, str]] = {}
        self._accounts: dict[Context, Account] = {}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by address
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any] | None] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method: str = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:  # an unknown method is not kept: there are as many as callers think of
                return handler  # type: ignore[unreachable]
            self._wrapped[method] = self._around(handler, method.rpartition("/")[2])
        return self._wrapped[method]  # type: ignore[return-value]

    async def ended(self) -> None:
        """Returns when no call is under way: gRPC's stop does not wait for what those that it ends still write."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def admit(self, context: Context, client: str) -> None:
        """The call has shown whose it is. A second time changes nothing.

        Raises:
            Busy: the client has its share of calls under way.
        """
        places, holder = self._held[context]
        if (places, holder) != (self._clients, client):
            self._clients.take(client)
            places.leave(holder)
            self._held[context] = self._clients, client
            self._connections.prove(context.peer(), client)
        self.account(context).client = client

    def account(self, context: Context) -> Account:
        """What the audit will say of the call."""
        return self._accounts[context]

    def _around(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """On the wire a single message is a stream of one. As streams, all calls are read and answered here."""

        async def call(requests: Any, context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            account = self._accounts[context] = Account(peer_of(context.peer())[0])
            try:
                code = "cancelled"
                try:
                    status, details, code = await self._outcome(handler, account, requests, context)
                except asyncio.CancelledError:
                    await self._audit.write(method, account, context, grpc.StatusCode.CANCELLED)
                    raise
                finally:
                    if method in _METHODS:
                        CALLS.labels(method, code).inc()
                # Before the caller hears of it: one that takes nothing more would keep both waiting.
                await self._audit.write(method, account, context, status)
                if status is not grpc.StatusCode.OK:
                    await context.abort(status, details)
            finally:
                del self._accounts[context]
                if held := self._held.pop(context, None):
                    places, holder = held
                    places.leave(holder)

        return grpc.stream_stream_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    async def _outcome(
        self, handler: grpc.RpcMethodHandler[Any, Any], account: Account, requests: Any, context: Context
    ) -> tuple[grpc.StatusCode, str, str]:
        """Answers a call; its status, the details of a refusal, and what it is counted as."""
        try:
            self._enter(context)
            account.first = await self._first(context)
            await _answer(handler, account.first, requests, context)
        except grpc.aio.AbortError:  # a service of gRPC's own has said it
            raise
        except Exception as error:
            return *status_of(error), error.code if isinstance(error, DomainError) else "internal_error"
        return grpc.StatusCode.OK, "", "ok"

    def _enter(self, context: Context) -> None:
        peer = peer_of(context.peer())
        # Over a proxy's line nobody knows whose the next call is; strangers elsewhere at its address do not fill it.
        holder = ":".join(peer) if self._connections.is_proved(peer) else holder_of(peer[0])
        self._visitors.take(holder)
        self._held[context] = self._visitors, holder

    async def _first(self, context: Context) -> Any:
        """The call's first message, or `_END`."""
        turn: Any = nullcontext()
        peer = peer_of(context.peer())
        if not self._connections.is_proved(peer):
            turn = self._turns.setdefault(holder_of(peer[0]), asyncio.Semaphore(READ_AT_ONCE))
        try:
            async with asyncio.timeout(MESSAGE_S), turn:
                return await context.read()
        except TimeoutError:
            raise Stalled(f"the call's message did not come whole within {MESSAGE_S:.0f} s; send it at once") from None


async def _answer(handler: Any, first: Any, requests: Any, context: Context) -> None:
    way = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
    if not handler.request_streaming and first is _END:
        raise InvalidRequest("request: missing; send one message")
    answer = getattr(handler, "_".join(way))(_all(first, requests) if handler.request_streaming else first, context)
    if inspect.isasyncgen(answer):
        async for each in answer:
            await written(context, each)
    elif handler.response_streaming:
        await answer
    else:
        await written(context, await answer)


async def _all(first: Any, rest: Any) -> AsyncIterator[Any]:
    if first is not _END:
        yield first
        async for each in rest:
            yield each


async def written(context: Context, message: Any) -> None:
    """Sends a message of an answer.

    Raises:
        Stalled: the caller does not take it.
    """
    try:
        async with asyncio.timeout(STALL_S):
            await context.write(message)
    except TimeoutError:
        raise Stalled(f"nothing of the answer was taken for {STALL_S:.0f} s; go on where it ended") from None
