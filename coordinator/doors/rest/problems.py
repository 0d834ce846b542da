"""Errors of the REST door as problem documents (RFC 9457); nothing leaves it as a traceback."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.doors.limits import BODY_S
from coordinator.doors.rest.metrics import Metrics
from coordinator.state.errors import DomainError, InvalidJob
from coordinator.state.limits import MAX_BODY_BYTES, MAX_TEXT
from coordinator.store.refusals import noted
from fedgalore.process.plain import plain
from fedgalore.spec import findings

PLACES = ("path", "query", "header", "body")  # of a request, where something can be wrong
_HEADERS: dict[int, dict[str, str]] = {
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "1"},
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
}

log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    field: str
    problem: str


class Problem(BaseModel):
    """What went wrong; `code` is stable, `detail` is for people and says what to do."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | None = Field(default=None, description="One row for each bad field")
    id: str | None = Field(default=None, description="Finds an unexpected error in the coordinator's log")


def problem(
    status: int,
    code: str,
    detail: str,
    errors: list[dict[str, str]] | None = None,
    id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A response of type application/problem+json."""
    body = Problem(
        type=f"urn:fedgalore:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=[FieldProblem(**row) for row in errors] if errors else None,
        id=id,
    )
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, "application/problem+json")


def install(app: FastAPI) -> None:
    """Makes the app answer domain errors, bad parameters and unknown routes as problems."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


def of(error: DomainError) -> JSONResponse:
    """A domain error as a problem."""
    errors = error.errors if isinstance(error, InvalidJob) else None
    headers = _HEADERS.get(error.http_status)
    return problem(error.http_status, error.code, str(error), errors, headers=headers)


def _domain(request: Request, error: Exception) -> JSONResponse:
    return of(cast("DomainError", error))


def _validation(request: Request, error: Exception) -> JSONResponse:
    found: list[dict[str, Any]] = list(cast("RequestValidationError", error).errors())
    rows = [
        row for place in PLACES for row in _rows(request, place, [each for each in found if each["loc"][0] == place])
    ]
    detail = "; ".join(f"{row['field']}: {row['problem']}" for row in rows)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, rows)


def _rows(request: Request, place: str, found: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What is wrong in one part of a request, by what the door's own document says that it takes."""
    if not found:
        return []
    document = request.app.openapi()
    operation = document["paths"][request.scope["route"].path][request.method.lower()]
    if place == "body" and "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        found = [each | {"loc": each["loc"][: 1 if each["type"] == "json_invalid" else None]} for each in found]
        remedy = "" if is_json(request) else "; send it with Content-Type: application/json"
    else:
        parameters = [each for each in operation.get("parameters", []) if each["in"] == place]
        schema, remedy = {"properties": {each["name"]: _without_null(each["schema"]) for each in parameters}}, ""
    inner = [each | {"loc": each["loc"][1:]} for each in found]
    rows = findings.rows(inner, schema, document, place)
    if place != "body":  # the third of a parameter that is given several times has the name of the first
        rows = [row | {"field": row["field"].partition(".")[0]} for row in rows]
    return [row | {"problem": row["problem"] + remedy} for row in rows]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a parameter: one that is left out is null, and none can be given as null."""
    if "anyOf" not in schema:
        return schema
    return schema | {"anyOf": [each for each in schema["anyOf"] if each.get("type") != "null"]}


def is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _http(request: Request, error: Exception) -> JSONResponse:
    known = cast("HTTPException", error)
    status = HTTPStatus(known.status_code)
    detail = known.detail
    if status is HTTPStatus.BAD_REQUEST:  # by FastAPI, of a body that breaks the parser
        detail = "body: cannot be read as JSON; send it as UTF-8, and less deeply nested"
    if detail == status.phrase:
        detail = f"{request.method} {request.url.path} is not offered here; /docs lists what is"
    return problem(status, status.name.lower(), detail, headers=known.headers)


class Guard:
    """ASGI middleware around everything: counts and logs each request, ends a request whose body is too large, and
    turns an unexpected error into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
            await send(message)

        structlog.contextvars.bind_contextvars(**_about(scope))  # of this request's task alone
        try:
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
                await _two_lengths(scope, receive, watched)
            else:
                await self._app(scope, _limited(receive), watched)
        except Exception as error:
            if not status and (refused := noted(error)) is not None:
                await of(refused)(scope, receive, watched)
                return
            error_id = uuid.uuid4().hex[:12]
            log.exception("unexpected_error", id=error_id, method=scope["method"], path=scope["path"])
            if status:
                raise  # too late for another answer; the server cuts the connection, so the client knows
            detail = f"this is a fault of the coordinator; its log has more under {error_id}"
            await problem(500, "internal_error", detail, id=error_id)(scope, receive, watched)
        finally:
            duration_s = time.perf_counter() - started
            self._metrics.request(scope["method"], _route(scope), status, duration_s)
            log.debug(
                "request_answered", method=scope["method"], path=scope["path"], status=status, duration_s=duration_s
            )


def _limited(receive: Receive) -> Receive:
    """Refuses a body that is too large, or does not come whole in time."""
    received_bytes, due, whole = 0, asyncio.get_running_loop().time() + BODY_S, False

    async def limited() -> Message:
        nonlocal received_bytes, whole
        try:
            async with asyncio.timeout_at(None if whole else due):  # what follows a whole body is the end of the line
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"body: did not come whole within {BODY_S:.0f} s; send it at once") from None
        received_bytes += len(message.get("body", b""))
        if received_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, f"body: is larger than {MAX_BODY_BYTES} bytes; send less")
        whole = not message.get("more_body", False)
        return message

    return limited


async def _two_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    """A proxy in front might go by the other length, and take what lies between for the next request."""
    detail = "Content-Length: comes with Transfer-Encoding, which says otherwise how long the body is; send one of them"
    await problem(400, "bad_request", detail, headers={"Connection": "close"})(scope, receive, send)


def _about(scope: Scope) -> dict[str, str]:
    """The job that a request is about, for lines of the log."""
    match scope["path"].split("/")[1:5]:
        case ["api", "v1", "jobs", job] if job:
            return {"job": plain(job[:MAX_TEXT])}
        case _:
            return {}


def _route(scope: Scope) -> str:
    """The route's template: paths themselves would make a new time series for every job."""
    route: Any = scope.get("route")
    mounted: str = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))  # such as the files of /docs
    return getattr(route, "path", "") or mounted or "unmatched"
