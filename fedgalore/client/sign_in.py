"""Signing in from a command: the device flow of OAuth (RFC 8628), at the provider that a coordinator names."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from fedgalore.client import logins, shapes
from fedgalore.client.access import Access
from fedgalore.client.answers import content, parsed, reaching
from fedgalore.client.errors import ClientError, Refused, Unreachable, WrongArgument
from fedgalore.client.logins import Login, said
from fedgalore.process.plain import plain

DISCOVERY = "/.well-known/openid-configuration"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
INTERVAL_S = 5.0  # between questions, where the provider does not say
SLOWER_S = 5.0  # RFC 8628, 3.5
LONGEST_S = 1800.0
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Code:
    """What a person confirms in a browser, on whatever machine."""

    user_code: str
    page: str


def place(access: Access) -> shapes.SignIn:
    """Where the people of a coordinator sign in.

    Raises:
        Refused: nowhere.
        Unreachable, WrongArgument
    """
    open_to_all = replace(access, headers={}, login=False)
    with httpx.Client(**open_to_all.for_httpx(TIMEOUT_S)) as http, reaching(access.url):
        answer = http.get("/sign-in")
    found = parsed(shapes.SignIn, content(answer, access.url))
    if found.issuer is None:
        sentence = f"{access.url} has no identity provider; ask an operator for an API key (`fedgalore keys create`)"
        raise Refused(sentence, "no_sign_in")
    return found


def device(access: Access, ca: Path | None, show: Callable[[Code], None]) -> Login:
    """Signs a person in, who confirms in a browser what `show` is given; the login is written.

    Args:
        ca: PEM file of the CA of the provider's certificate; None: those of the system.

    Raises:
        Refused: by the person or the provider, nobody has confirmed in time, or there is no provider.
        Unreachable, WrongArgument
    """
    if not logins.is_safe(access.url):
        raise WrongArgument("url", f"the token must not travel to {access.url} in plaintext; give an https:// address")
    where = place(access)
    issuer, client = str(where.issuer), str(where.client_id)
    published = _published(issuer, ca)
    device_endpoint, token_endpoint = (_endpoint(published, issuer, name) for name in ("device_authorization", "token"))
    asked_at = time.monotonic()
    status, begun = logins.post(device_endpoint, {"client_id": client, "scope": where.scopes or "openid"}, ca)
    if status != 200 or not isinstance(begun.get("device_code"), str):
        raise Refused(f"{issuer} does not let commands sign in ({said(begun)}); tell its administrator", "no_sign_in")
    page = begun.get("verification_uri_complete") or begun.get("verification_uri")
    show(Code(plain(str(begun.get("user_code")))[:100], plain(str(page))[:1000]))
    due = asked_at + min(_number(begun, "expires_in", LONGEST_S), LONGEST_S)
    revocation = published.get("revocation_endpoint")
    login = Login(
        url=access.url,
        issuer=issuer,
        client_id=client,
        token_endpoint=token_endpoint,
        revocation_endpoint=revocation if logins.is_safe(revocation) else None,
        ca=ca,
        kind=where.token or "access_token",
        token="",
        expires_at=0.0,
    )
    form = {"grant_type": DEVICE, "device_code": str(begun["device_code"]), "client_id": client}
    login = login.renewed(_confirmed(login, form, _number(begun, "interval", INTERVAL_S), due))
    logins.write(login)
    return login


def out(access: Access) -> bool:
    """Ends the login at a coordinator, also at the provider where it can be told; False where there was none.

    Raises:
        WrongArgument: its file cannot be deleted.
    """
    was_there, login = logins.take(access.url)
    if login is not None and login.revocation_endpoint and login.refresh_token:
        form = {"token": login.refresh_token, "token_type_hint": "refresh_token", "client_id": login.client_id}
        with suppress(ClientError):  # the file is gone, and the token ends by itself
            logins.post(login.revocation_endpoint, form, login.ca)
    return was_there


def _published(issuer: str, ca: Path | None) -> dict[str, Any]:
    if not logins.is_safe(issuer):
        raise Refused(f"the coordinator names {plain(issuer)[:200]}, which is no https:// address", "no_sign_in")
    _, published = logins.get(issuer.rstrip("/") + DISCOVERY, ca)
    if published.get("issuer") != issuer:
        raise Refused(f"{plain(issuer)[:200]} is no identity provider of that name; tell an operator", "no_sign_in")
    return published


def _endpoint(published: dict[str, Any], issuer: str, name: str) -> str:
    found = published.get(f"{name}_endpoint")
    if not logins.is_safe(found):
        sentence = f"{issuer} has no {name}_endpoint, which commands need; let its administrator allow the device flow"
        raise Refused(sentence, "no_sign_in")
    return str(found)


def _confirmed(login: Login, form: dict[str, str], interval_s: float, due: float) -> dict[str, Any]:
    """Asks until a person has said yes."""
    while time.monotonic() < due:
        time.sleep(min(interval_s, max(0.0, due - time.monotonic())))  # no provider makes it longer
        try:
            status, answer = logins.post(login.token_endpoint, form, login.ca)
        except Unreachable:  # it may answer again; until then less often (RFC 8628, 3.5)
            interval_s += SLOWER_S
            continue
        if status == 200:
            return answer
        match answer.get("error"):
            case "authorization_pending":
                pass
            case "slow_down":
                interval_s += SLOWER_S
            case "expired_token":
                break
            case "access_denied":
                raise Refused(f"the sign-in was refused at {login.issuer}", "sign_in_refused")
            case _:
                raise Refused(f"{login.issuer} does not sign in ({said(answer)})", "sign_in_refused")
    raise Refused("nobody confirmed the code in time; run `fedgalore login` again", "sign_in_expired")


def _number(answer: dict[str, Any], name: str, otherwise: float) -> float:
    found = answer.get(name)
    return float(found) if isinstance(found, int | float) and 0 < found < 2**31 else otherwise
