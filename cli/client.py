"""The REST door as the commands use it: JSON out, or one line that says what is wrong and exit status 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 15.0
STREAM_S = 120.0  # of silence inside of a download: a large matrix may have to be decomposed, or others come first

Url = Annotated[
    str,
    typer.Option("--url", envvar="FEDGALORE_URL", help="Address of the coordinator's REST door.", show_default=True),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the coordinator answers, as JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `fedgalore jobs list` shows it.")]
DEFAULT_URL = "http://127.0.0.1:8080"


def job_path(job_id: str) -> str:
    """Path of a job, whatever the id holds."""
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def fail(message: str) -> NoReturn:
    """Ends the command with one line on stderr and status 1."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(1)


class Unreachable(Exception):
    """Nobody answers at the address, or not as a coordinator would."""


class Refused(Exception):
    """The coordinator answered with a problem; the message says what and why."""


class Coordinator:
    """A connection to one coordinator; a context manager. Errors end the command, except inside `patiently`."""

    def __init__(self, url: str) -> None:
        import httpx

        try:
            self._http = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT_S)
        except (httpx.InvalidURL, ValueError) as error:
            fail(f"--url {url} is not an address ({error}): give one such as {DEFAULT_URL}")
        self._url = url

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of the answer, None for an empty one; anything else than success ends the command."""
        try:
            return self.try_to_ask(method, path, **arguments)
        except (Unreachable, Refused) as error:
            fail(str(error))

    def try_to_ask(self, method: str, path: str, **arguments: Any) -> Any:
        """As `ask`.

        Raises:
            Unreachable, Refused
        """
        with self._translated():
            answer = self._http.request(method, path, **arguments)
            self._check(answer)
        return answer.json() if answer.content else None

    @contextlib.contextmanager
    def stream(self, path: str, **arguments: Any) -> Iterator[Iterator[bytes]]:
        """The chunks of the answer's body; errors end the command."""
        import httpx

        patience = httpx.Timeout(TIMEOUT_S, read=STREAM_S)
        try:
            with self._translated(), self._http.stream("GET", path, timeout=patience, **arguments) as answer:
                if not answer.is_success:
                    answer.read()
                self._check(answer)
                yield answer.iter_bytes()
        except (Unreachable, Refused) as error:
            fail(str(error))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"no answer from {self._url} ({error}): start it with `fedgalore coordinator`, or name another by --url"
            ) from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.headers.get("content-type", "").startswith("application/problem+json"):
            told = answer.json()
            raise Refused(f"{told['detail']} [{told['code']}]")
        raise Refused(f"{self._url} answered {answer.status_code} and is no coordinator: check --url")
