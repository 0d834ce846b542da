"""The REST door as the commands use it: JSON out, or one line that says what is wrong and exit status 1.

Where the coordinator asks for a key, it comes from FEDGALORE_API_KEY or the file that FEDGALORE_API_KEY_FILE names;
FEDGALORE_CA names the CA of its certificate, where the system does not know it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import SplitResult, quote, urlsplit

import typer

from fedgalore.process.address import REST_PORT, check_url
from fedgalore.process.tls import is_loopback
from fedgalore_cli.errors import fail

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 15.0
MOST_ROUNDS = 200  # in an answer
AWAY = (502, 503, 504)  # the coordinator without its Redis, or a proxy without its coordinator
AGAIN_S = 1.0  # between requests for what is being made
STREAM_S = 120.0  # of silence within a download: a large matrix may have to be decomposed, or other requests come first

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="FEDGALORE_URL",
        help="Address of the coordinator's REST door. The key comes from FEDGALORE_API_KEY or FEDGALORE_API_KEY_FILE.",
        show_default=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the coordinator answers, as JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `fedgalore jobs list` shows it.")]
DEFAULT_URL = "http://127.0.0.1:8080"
JOBS = "/api/v1/jobs"


def job_path(job_id: str) -> str:
    """Path of a job, whatever the id holds. What cannot stand in a path ends the command."""
    if not job_id.strip(".") or "/" in job_id:
        fail(f"JOB: {job_id!r} is no id of a job; `fedgalore jobs list` shows them")
    return f"{JOBS}/{quote(job_id, safe='')}"


def rounds_of(ask: Callable[[str], Any], after: int = 0) -> list[dict[str, Any]]:
    """A job's rounds that follow round `after`, page by page. `ask` answers a path below the job's."""
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": after}
    while (start := page.get("next")) is not None:
        page = ask(f"/rounds?limit={MOST_ROUNDS}&after={start}")
        found += page["rounds"]
    return found


class Unreachable(Exception):
    """Nobody answers at the address, or somebody who cannot just now: it may be better later."""


class RequestRefused(Exception):
    """The coordinator answered with a problem; the message says what and why."""


def _api_key(url: SplitResult) -> dict[str, str]:
    """The header that carries the key of the environment; a wrong setting ends the command."""
    from fedgalore.process.settings import SettingsError, with_secrets

    given = {"api_key": os.environ["FEDGALORE_API_KEY"]} if os.environ.get("FEDGALORE_API_KEY") else {}
    try:
        key = with_secrets(given, "FEDGALORE_", ("api_key",)).get("api_key")
    except SettingsError as error:
        fail(str(error))
    if key is None:
        return {}
    if not key:
        fail("FEDGALORE_API_KEY_FILE: the file is empty; name the file that holds the key")
    if url.scheme != "https" and not is_loopback(url.hostname or ""):
        fail(
            f"FEDGALORE_API_KEY: the key must not travel to {url.hostname} in plaintext; "
            "give an https:// address, or unset the key"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        fail("FEDGALORE_API_KEY: the key holds characters that no key has; make a key with `fedgalore keys create`")
    return {"Authorization": f"Bearer {key}"}


def _trust() -> ssl.SSLContext | bool:
    """Whose certificates are believed: those of FEDGALORE_CA, else the system's."""
    path = os.environ.get("FEDGALORE_CA")
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        fail(f"FEDGALORE_CA: {path} is no PEM file of a CA ({error}); name the certificate of the CA")


def _being_made(answer: httpx.Response) -> str | None:
    """In words, what is being made that the same request finds later; None where it is something else."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    problem = answer.json()
    return str(problem["detail"]) if problem["code"] == "being_made" else None


class Coordinator:
    """A connection to a coordinator; a context manager. Errors end the command, except those of `try_to_ask`."""

    def __init__(self, url: str) -> None:
        import httpx

        try:
            where = urlsplit(check_url(url, ("http", "https"), REST_PORT))
            self._http = httpx.Client(
                base_url=url.rstrip("/"),
                timeout=TIMEOUT_S,
                headers=_api_key(where),
                verify=_trust(),
                trust_env=not is_loopback(where.hostname or ""),  # a proxy would take the request off this machine
            )
        except (httpx.InvalidURL, ValueError) as error:
            fail(f"--url (FEDGALORE_URL): {error}")
        self._url = url

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of the answer, or None for an empty answer. Any failure ends the command."""
        try:
            return self.try_to_ask(method, path, **arguments)
        except (Unreachable, RequestRefused) as error:
            fail(str(error))

    def try_to_ask(self, method: str, path: str, **arguments: Any) -> Any:
        """As `ask`.

        Raises:
            Unreachable, RequestRefused
        """
        with self._translated():
            answer = self._http.request(method, path, **arguments)
            self._check(answer)
        return answer.json() if answer.content else None

    @contextlib.contextmanager
    def stream(self, path: str, **arguments: Any) -> Iterator[Iterator[bytes]]:
        """The chunks of the answer's body, which the coordinator may have to make first; errors end the command."""
        import httpx

        patience, said = httpx.Timeout(TIMEOUT_S, read=STREAM_S), False
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._translated())
                while True:
                    answer = stack.enter_context(self._http.stream("GET", path, timeout=patience, **arguments))
                    if answer.is_success:
                        break
                    answer.read()
                    if (words := _being_made(answer)) is None:
                        self._check(answer)
                    if not said:
                        typer.echo(f"waiting: {words}", err=True)
                    said = True
                    time.sleep(float(answer.headers.get("retry-after", AGAIN_S)))
                yield answer.iter_bytes()
        except (Unreachable, RequestRefused) as error:
            fail(str(error))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            remedy = "start a coordinator with `fedgalore coordinator`, or name its address by --url"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                remedy = "name the CA of its certificate in FEDGALORE_CA"
            if "WRONG_VERSION_NUMBER" in str(error):
                remedy = "no TLS is spoken there: give its address with http://"
            raise Unreachable(f"no answer from {self._url} ({error}); {remedy}") from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.headers.get("content-type", "").startswith("application/problem+json"):
            problem = answer.json()
            detail = problem["detail"]
            if problem["code"] == "not_authenticated":
                detail += ". The key comes from FEDGALORE_API_KEY, or from the file that FEDGALORE_API_KEY_FILE names"
            error = Unreachable if answer.status_code in AWAY else RequestRefused
            raise error(f"{detail} [{problem['code']}]")
        if answer.status_code in AWAY:
            raise Unreachable(f"no answer from {self._url}: what stands before it says {answer.status_code}; try again")
        raise RequestRefused(
            f"--url: {self._url} answered {answer.status_code} and is no coordinator; correct the address"
        )
