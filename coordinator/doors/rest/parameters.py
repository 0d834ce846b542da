"""What a route does not know is refused: a misspelt parameter must not pass for one that was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fastapi import Request
from fastapi._compat import field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from coordinator.doors.rest.problems import is_json
from fedgalore.spec.documents import DocumentError, read_json
from fedgalore.spec.findings import OWN

NO_BODY = (b"", b"{}")  # the latter is what some clients send with every POST


async def refuse_unknown(request: Request) -> None:
    """A dependency of every route: its query may hold the parameters of the route, its body a document, each key once.

    Raises:
        RequestValidationError: with a row for each parameter that is unknown or is given twice, and one for a body.
    """
    route: APIRoute = request.scope["route"]
    if not route.include_in_schema:  # a page: an identity provider and mail programs add to its address what they like
        return
    known = dict(sorted(_parameters(route.dependant)))
    taken = f"takes {', '.join(known)}" if known else "takes no parameters"
    rows = []
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            problem = f"unknown parameter; {request.method} {route.path} {taken}"
            rows.append({"type": OWN[0], "loc": ("query", name or "query"), "msg": problem})
        elif times > 1 and not known[name]:
            rows.append({"type": OWN[0], "loc": ("query", name), "msg": f"is given {times} times; give it once"})
    if request.method != "GET" and (problem := _odd_body(route, request, await request.body())):
        rows.append({"type": OWN[0], "loc": ("body",), "msg": problem})
    if rows:
        raise RequestValidationError(rows)


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The names of the query parameters of a route and of all that it depends on, and whether each may come twice."""
    yield from (
        (each.alias, field_annotation_is_sequence(each.field_info.annotation)) for each in dependant.query_params
    )
    for each in dependant.dependencies:
        yield from _parameters(each)


def _odd_body(route: APIRoute, request: Request, body: bytes) -> str:
    """What is wrong with a body beyond the fields that it lacks or should not have; empty where nothing is."""
    if route.body_field is not None:
        try:
            read_json(body if is_json(request) else b"null")
        except DocumentError as error:
            return str(error)
    elif route.openapi_extra is None and body.strip() not in NO_BODY:
        return f"{request.method} {route.path} takes none; leave it out"
    return ""
