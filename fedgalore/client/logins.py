"""Who has signed in at which coordinator: `fedgalore login` writes the tokens, clients read and renew them.

They lie in a folder `logins` beside the file of contexts, a file for each address of a coordinator, readable by its
owner alone. A token goes to the coordinator whose address the file names, what renews it to the provider at which it
was made, and neither to anybody else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from fedgalore.client import contexts
from fedgalore.client.errors import Refused, Unreachable, WrongArgument
from fedgalore.process.durable import SECRET, survives_power_cut
from fedgalore.process.plain import plain
from fedgalore.process.tls import is_loopback

EARLY_S = 30.0  # before its end a token is renewed
LIFE_S = 300.0  # of a token that does not say how long it is good
TIMEOUT_S = 20.0
MOST_TOLD = 300  # characters of what a provider says


class Login(BaseModel):
    """A person's tokens at one coordinator. `expires_at`: seconds since the epoch, by this machine's clock."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str  # of the coordinator
    issuer: str
    client_id: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    ca: Path | None = None  # of the provider's certificate
    kind: Literal["access_token", "id_token"] = "access_token"  # which token is shown
    token: str
    refresh_token: str | None = None
    expires_at: float

    def renewed(self, answer: Mapping[str, Any]) -> Login:
        """With what the provider's token endpoint has answered.

        Raises:
            Refused: it has no such token in it.
        """
        token, refresh = answer.get(self.kind), answer.get("refresh_token") or self.refresh_token
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise Refused(f"{self.issuer} answered without a usable {self.kind}; tell its administrator", "no_token")
        expires_at = time.time() + _life_s(token, answer)
        return self.model_copy(update={"token": token, "refresh_token": refresh, "expires_at": expires_at})


def file_of(url: str) -> Path:
    """Where the login at this coordinator is, which need not exist."""
    name = hashlib.sha256(url.rstrip("/").lower().encode()).hexdigest()[:24]
    return contexts.place().parent / "logins" / f"{name}.json"


def is_there(url: str) -> bool:
    """Whether somebody has signed in at this coordinator; nobody has where this user cannot look."""
    try:
        return file_of(url).is_file()
    except (OSError, WrongArgument):
        return False


def read(url: str) -> Login | None:
    """The login at this coordinator; None where nobody has signed in there.

    Raises:
        WrongArgument: its file cannot be read.
    """
    file = file_of(url)
    try:
        return Login.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):  # pydantic's words would show the token
        problem = f"{file} cannot be read; sign in again by `fedgalore login`"
        raise WrongArgument("login", problem) from None


def write(login: Login) -> None:
    """
    Raises:
        WrongArgument: its file cannot be written.
    """
    file = file_of(login.url)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(file):
            _write(file, login)
    except OSError as error:
        raise _unwritable(file, error) from None


def take(url: str) -> tuple[bool, Login | None]:
    """Deletes the login at this coordinator: whether there was one, and what it was, as far as it can be read.

    Whoever renews it at this moment is waited for, and does not bring it back.

    Raises:
        WrongArgument: its file cannot be deleted.
    """
    if not is_there(url):
        return False, None
    file = file_of(url)
    with _locked(file):
        try:
            login = read(url)
        except WrongArgument:
            login = None
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise WrongArgument("login", f"{file} cannot be deleted ({error}); correct its folder") from None
    return True, login


def _write(file: Path, login: Login) -> None:
    with survives_power_cut(file, SECRET) as draft:
        draft.write_text(login.model_dump_json(), encoding="utf-8")


def _unwritable(file: Path, error: OSError) -> WrongArgument:
    return WrongArgument("login", f"{file} cannot be written ({error}); make room, or correct its folder")


class Bearer(httpx.Auth):
    """Shows the token of the login at a coordinator with each request, and renews it before it expires."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._login: Login | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token()}"
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["Authorization"] = f"Bearer {await asyncio.to_thread(self._token)}"
        yield request

    def _token(self) -> str:
        """
        Raises:
            Refused: the login has ended.
            Unreachable: the provider does not answer.
            WrongArgument: its file cannot be read or written.
        """
        if self._login is None or _ends(self._login):
            file = file_of(self._url)
            with _locked(file):  # a token to renew with is often good once
                login = read(self._url)
                if login is None:
                    raise _over("nobody is signed in here any more")
                if _ends(login):
                    login = _renew(login)
                    try:
                        _write(file, login)
                    except OSError as error:
                        raise _unwritable(file, error) from None
            self._login = login
        return self._login.token


def _ends(login: Login) -> bool:
    return time.time() > login.expires_at - EARLY_S


def _renew(login: Login) -> Login:
    if login.refresh_token is None:
        raise _over("the token has expired, and there is none to renew it with")
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token, "client_id": login.client_id}
    status, answer = post(login.token_endpoint, form, login.ca)
    if status != 200:
        raise _over(f"{login.issuer} does not renew the token ({said(answer)})")
    return login.renewed(answer)


def _over(why: str) -> Refused:
    return Refused(f"{why}; sign in again by `fedgalore login`", "signed_out")


def post(url: str, form: Mapping[str, str], ca: Path | None) -> tuple[int, dict[str, Any]]:
    """Sends a form to a provider: the status, and the JSON object of the answer, empty where it is none.

    Raises:
        Unreachable: it does not answer, or cannot just now.
        WrongArgument: the CA's file is none.
    """
    return _answer("POST", url, form, ca)


def get(url: str, ca: Path | None) -> tuple[int, dict[str, Any]]:
    """As `post`, without a form."""
    return _answer("GET", url, None, ca)


def said(answer: Mapping[str, Any]) -> str:
    """Why a provider refused, in its words (RFC 6749, 5.2)."""
    words = str(answer.get("error_description") or answer.get("error") or "without a reason")
    return plain(words[:MOST_TOLD])


def is_safe(url: object) -> bool:
    """Whether tokens may travel there: over TLS, or on this machine."""
    try:
        where = urlsplit(str(url))
        _ = where.port  # raises where there is no such port
        return where.scheme == "https" or (where.scheme == "http" and is_loopback(where.hostname or ""))
    except ValueError:
        return False


def _answer(method: str, url: str, form: Mapping[str, str] | None, ca: Path | None) -> tuple[int, dict[str, Any]]:
    try:
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca) if ca else True
    except OSError as error:
        raise WrongArgument("ca", f"{ca} is no PEM file of a CA ({error}); sign in again with another") from None
    if url.startswith("http:"):
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # takes no time to read the system's CAs
    local = is_loopback(urlsplit(url).hostname or "")
    try:
        with httpx.Client(verify=verify, timeout=TIMEOUT_S, trust_env=not local) as http:
            answer = http.request(method, url, data=dict(form) if form is not None else None)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last: no name of a machine
        raise Unreachable(
            f"no answer from the identity provider at {url} ({error}); try again", "unreachable"
        ) from None
    if answer.status_code >= 500 or answer.status_code == 429:
        sentence = f"the identity provider at {url} answers {answer.status_code}; try again"
        raise Unreachable(sentence, "unreachable", answer.status_code)
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        found = None
    return answer.status_code, found if isinstance(found, dict) else {}


def _life_s(token: str, answer: Mapping[str, Any]) -> float:
    """How long a token is good, by itself or what came along; not for believing it, only for renewing it in time."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return max(0.0, float(claims["exp"]) - float(claims["iat"]))
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError):
        given = answer.get("expires_in")
        return float(given) if isinstance(given, int | float) and 0 < given < 2**31 else LIFE_S


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time renews a login; where the system has no such locks, nobody waits."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        descriptor = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, SECRET)
    except OSError as error:
        raise WrongArgument("login", f"{file} cannot be locked ({error}); sign in again by `fedgalore login`") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
