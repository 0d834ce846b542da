"""Query parameters that a route does not know are refused: a misspelt one must not pass for one that was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

from fedgalore.spec.findings import OWN


def refuse_unknown(request: Request) -> None:
    """A dependency of every route: its query may hold the parameters of the route, each once.

    Raises:
        RequestValidationError: with a row for each parameter that is unknown, or is given twice.
    """
    known = sorted(_names(request.scope["route"].dependant))
    taken = f"takes {', '.join(known)}" if known else "takes no parameters"
    rows = []
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            problem = f"unknown parameter; {request.method} {request.scope['route'].path} {taken}"
            rows.append({"type": OWN[0], "loc": ("query", name or "query"), "msg": problem})
        elif times > 1:
            rows.append({"type": OWN[0], "loc": ("query", name), "msg": f"is given {times} times; give it once"})
    if rows:
        raise RequestValidationError(rows)


def _names(dependant: Dependant) -> Iterator[str]:
    """The names of the query parameters of a route and of all that it depends on."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for each in dependant.dependencies:
        yield from _names(each)
