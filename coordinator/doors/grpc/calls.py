"""Around every call of the agents' door: its message comes in time, its answer is taken in time, and no caller has more
calls at a time than its share.

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

from coordinator.doors.grpc.connections import peer_of
from coordinator.doors.grpc.guard import fail
from coordinator.doors.limits import MESSAGE_S, STALL_S, Places, holder_of
from coordinator.state.errors import Busy, InvalidRequest, Stalled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.doors.grpc.connections import Connections
    from coordinator.doors.grpc.guard import Context
    from coordinator.doors.limits import DoorLimits


_END = grpc.aio.EOF  # type: ignore[attr-defined]
READ_AT_ONCE = 32  # messages over the connections of an address that have shown no key: each may take 4 MiB


class Calls(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """One a server."""

    def __init__(self, limits: DoorLimits, connections: Connections) -> None:
        self._visitors = Places(
            "calls that have not shown whose they are yet",
            limits.max_connections_per_address,
            "max_connections_per_address",
            in_all=limits.max_connections,
        )
        self._clients = Places("calls", limits.max_calls_per_client, "max_calls_per_client")
        self._connections = connections
        self._held: dict[Context, tuple[Places, str]] = {}
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
            self._wrapped[method] = self._around(handler)
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

    def _around(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """On the wire a single message is a stream of one. As streams, all calls are read and answered here."""

        async def call(requests: Any, context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            try:
                self._enter(context)
                try:
                    await _answer(handler, await self._first(context), requests, context)
                finally:
                    places, holder = self._held.pop(context)
                    places.leave(holder)
            except (Busy, InvalidRequest, Stalled) as error:
                await fail(context, error)

        return grpc.stream_stream_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

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
