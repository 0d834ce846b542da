"""HEAD: the head of what a GET would answer."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEAD = "fedgalore.head"  # in a request's scope


def is_head(scope: Scope) -> bool:
    """Whether the body is not asked for, so that nobody has to make one."""
    return _HEAD in scope


class Head:
    """ASGI middleware: to what lies within, a HEAD is a GET; the body of its answer is dropped."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["method"], scope[_HEAD] = "GET", True
        try:
            await self._app(scope, receive, without_body)
        finally:
            scope["method"] = "HEAD"
