"""A server that plays a coordinator whose line breaks: it answers each request by the next of its parts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Part:
    """An answer; the line ends behind `body`, whatever Content-Length says."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Played:
    """`asked`: the headers of each request, in their order."""

    url: str
    asked: list[dict[str, str]]


@contextmanager
def played(*parts: Part) -> Iterator[Played]:
    """Answers with these parts, one a request, and the last of them for ever."""
    left, asked = list(parts), list[dict[str, str]]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            part = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(part.status)
            for name, value in ({"Connection": "close"} | part.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(part.body)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serve: Callable[..., None] = server.serve_forever
    thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Played(f"http://127.0.0.1:{server.server_address[1]}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
