"""The dashboard: static files beside this module, served so that a browser asks for each of them once a release."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Response
from starlette.exceptions import HTTPException

from coordinator.doors.rest.ranges import knows

POLICY = (
    "default-src 'none'",
    "script-src 'self'",  # no script in the page: no job's name can smuggle one in
    "style-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
FOR_GOOD = "public, max-age=31536000, immutable"  # their addresses change with their content
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
ETags = Annotated[str, Header(alias="If-None-Match")]


def policy(token_endpoint: str | None) -> str:
    """What the page may do. It asks the coordinator alone, and where people sign in, the place that gives tokens."""
    asked = ["connect-src 'self'"]
    if token_endpoint is not None:
        where = urlsplit(token_endpoint)
        asked.append(f"{where.scheme}://{where.netloc}")
    return "; ".join((*POLICY, " ".join(asked)))


def content() -> dict[str, bytes]:
    """Every file of the page by its path."""

    def under(folder: Traversable, prefix: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for entry in folder.iterdir():
            name = f"{prefix}{entry.name}"
            found |= under(entry, f"{name}/") if entry.is_dir() else {name: entry.read_bytes()}
        return found

    return under(files("coordinator.doors.rest").joinpath("page"), "")


def digest(pages: Mapping[str, bytes]) -> str:
    """Short, of all files together: modules that import each other have to be of one release."""
    whole = hashlib.sha256()
    for name in sorted(pages):
        whole.update(f"{name} {len(pages[name])} ".encode() + pages[name])
    return whole.hexdigest()[:16]


def router(token_endpoint: Callable[[], str | None]) -> APIRouter:
    """`token_endpoint`: of the identity provider, as long as one is known."""
    routes = APIRouter(include_in_schema=False)
    pages = content()
    release = digest(pages)
    index = pages.pop("index.html").replace(b'"files/', f'"/dashboard/{release}/'.encode())

    def answer(name: str, body: bytes, cached: str, known: str) -> Response:
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": cached, "Content-Security-Policy": policy(token_endpoint())}
        if knows(known, tag):
            return Response(status_code=304, headers=headers)
        kind = TYPES.get(f".{name.rpartition('.')[2]}") or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(body, media_type=kind, headers=headers)

    @routes.get("/")
    async def dashboard(known: ETags = "") -> Response:
        return answer("index.html", index, "no-cache", known)

    @routes.get("/dashboard/{asked}/{name:path}")
    async def file(asked: str, name: str, known: ETags = "") -> Response:
        if asked != release or name not in pages:
            raise HTTPException(404, "the dashboard has no such file any more; load the page / again")
        return answer(name, pages[name], FOR_GOOD, known)

    return routes
