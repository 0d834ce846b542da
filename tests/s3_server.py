"""A server that speaks S3 over HTTP on this machine, for tests of blobs in a bucket: moto's, in a process of its own.

It is there where `make bucket` has installed it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

_SERVE = (
    "from moto.server import ThreadedMotoServer\n"
    "import logging, threading\n"
    "logging.getLogger('werkzeug').setLevel(logging.ERROR)\n"
    "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)\n"
    "server.start()\n"
    "print(server.get_host_and_port()[1], flush=True)\n"
    "threading.Event().wait()\n"
)


@dataclass(frozen=True)
class S3Server:
    """A running server; what it holds ends with it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which the storage's users find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        httpx.put(f"{self.endpoint}/{name}", trust_env=False).raise_for_status()

    def write(self, path: str, content: bytes) -> None:
        """Writes an object, `bucket/path`, as another program would. The variables are to be set."""
        import obstore
        from obstore.store import S3Store

        bucket, _, rest = path.partition("/")
        obstore.put(S3Store(bucket, client_options={"allow_http": True}), rest, content)


@contextmanager
def running() -> Iterator[S3Server]:
    """A server on a free port, until the block ends."""
    with subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()
