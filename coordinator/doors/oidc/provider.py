"""The identity provider of the settings: where it is signed in, and the keys that it signs with, asked for over HTTP.

It is asked at the address of the settings and at those that it publishes there (OpenID Connect Discovery), and at none
that a caller could choose. While it does not answer, the keys that it gave are good.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import structlog

from coordinator.state.errors import ProviderAway
from fedgalore.process.settings import SettingsError
from fedgalore.process.tls import is_loopback

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

DISCOVERY = "/.well-known/openid-configuration"
TIMEOUT_S = 5.0  # of a request
RENEW_S = 600.0  # between looks
AGAIN_S = 10.0  # between looks after one that failed, and for a key that is not known
MAX_BYTES = 2**18  # of an answer
LEAST_RSA_BITS = 2048
KINDS = ("RSA", "EC", "OKP")
_PLACE = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")  # it goes into a header of the dashboard
log = structlog.get_logger(__name__)


class Unusable(Exception):
    """What is wrong with the provider, as the rest of a sentence that begins with its issuer."""


@dataclass(frozen=True)
class Found:
    """What the provider publishes of itself; endpoints that it does not have are None."""

    keys: KeySet
    token_endpoint: str | None
    authorization_endpoint: str | None


class Provider:
    """Belongs to one event loop.

    Args:
        issuer: its URL, as its tokens have it.
        ca: PEM file of the CA of its certificate; None: those of the system.
        clock: monotonic, in seconds.

    Raises:
        SettingsError: `ca` is no such file, or what reads tokens is not installed.
    """

    def __init__(self, issuer: str, ca: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self.found: Found | None = None
        self.problem: str | None = None  # in a sentence; None where all is well
        self.changes = 0  # of its keys: what an earlier one has signed may be void
        self._clock = clock
        self._asked_at = float("-inf")
        self._turn = asyncio.Lock()
        host = urlsplit(issuer).hostname or ""
        self._http = httpx.AsyncClient(
            verify=_trusted(issuer, ca), timeout=TIMEOUT_S, follow_redirects=False, trust_env=not is_loopback(host)
        )
        try:
            import joserfc  # noqa: F401
        except ModuleNotFoundError:
            raise SettingsError(
                "oidc_issuer: tokens cannot be read without joserfc, which is not installed; run: "
                "pip install 'fedgalore[coordinator]'"
            ) from None

    async def keep(self) -> None:
        """Looks again from time to time; never ends."""
        while True:
            await asyncio.sleep(AGAIN_S if self.problem else RENEW_S)
            await self.renew()

    async def renew(self) -> None:
        """Asks for the keys, and notes what is wrong; those that it gave before stay where it does not answer."""
        async with self._turn:
            await self._renew()

    async def keys(self, key_id: str | None) -> KeySet:
        """All keys, asked for anew where this one is not among them, but not at every such call.

        Raises:
            ProviderAway: it has not given any yet, or does not answer whether it has this one.
        """
        if not self._has(key_id):
            async with self._turn:
                if not self._has(key_id) and self._clock() - self._asked_at >= AGAIN_S:
                    await self._renew()
        if self.found is None or (self.problem and not self._has(key_id)):
            raise ProviderAway(f"{self.problem}; until it is mended, API keys let in as ever")
        return self.found.keys

    async def aclose(self) -> None:
        await self._http.aclose()

    def _has(self, key_id: str | None) -> bool:
        return self.found is not None and (key_id is None or any(key.kid == key_id for key in self.found.keys))

    async def _renew(self) -> None:
        self._asked_at = self._clock()
        try:
            found = await self._look()
        except Unusable as error:
            problem = f"oidc_issuer: {self.issuer} {error}"
            if problem != self.problem:
                log.warning("provider_unusable", reason=problem)
            self.problem = problem
            return
        if self.problem is not None:
            log.info("provider_usable", issuer=self.issuer)
        if self.found is None or self.found.keys.as_dict() != found.keys.as_dict():
            self.changes += 1
        self.found, self.problem = found, None

    async def _look(self) -> Found:
        published = await self._document(self.issuer.rstrip("/") + DISCOVERY)
        if (named := published.get("issuer")) != self.issuer:
            raise Unusable(f"calls itself {str(named)[:200]!r}; write the setting as it does")
        if (address := self._address(published, "jwks_uri")) is None:
            raise Unusable("names no jwks_uri, where its keys are; name the issuer of an OpenID provider")
        keys = _usable(await self._document(address))
        return Found(
            keys, self._address(published, "token_endpoint"), self._address(published, "authorization_endpoint")
        )

    def _address(self, published: dict[str, Any], name: str) -> str | None:
        """One of the addresses that it names: over TLS, unless all is on this machine."""
        address = published.get(name)
        if address is None:
            return None
        try:
            where = urlsplit(str(address))
            _ = where.port  # raises where there is no such port
            here = urlsplit(self.issuer).scheme == "http" and is_loopback(where.hostname or "")
            safe = where.scheme == "https" or (where.scheme == "http" and here)
            safe = safe and _PLACE.fullmatch(where.netloc) is not None
        except ValueError:
            safe = False
        if not safe:
            raise Unusable(f"names {str(address)[:200]!r} as {name}, which is no https:// address; correct it there")
        return str(address)

    async def _document(self, url: str) -> dict[str, Any]:
        """A JSON object over HTTP."""
        body = bytearray()
        try:
            async with asyncio.timeout(TIMEOUT_S), self._http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise Unusable(f"answers {answer.status_code} at {url}; correct the setting, or mend the provider")
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise Unusable(f"answers more than {MAX_BYTES} bytes at {url}; mend the provider")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, UnicodeError) as error:  # the last: no name
            why = str(error) or type(error).__name__
            raise Unusable(f"does not answer at {url} ({why}); correct the setting, or mend the line") from None
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Unusable(f"answers no JSON object at {url}; name the issuer of an OpenID provider")
        return found


def _usable(published: dict[str, Any]) -> KeySet:
    """The public keys that tokens may be signed with; others, and those of other uses, are passed over."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet, RSAKey, import_key

    keys = []
    listed = published.get("keys")
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict) or each.get("kty") not in KINDS or each.get("use", "sig") != "sig":
            continue
        try:
            key = import_key(each)
            weak = isinstance(key, RSAKey) and key.public_key.key_size < LEAST_RSA_BITS
        except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):  # the last two: of a curve
            continue
        if not weak:
            keys.append(key)
    if not keys:
        raise Unusable("publishes no key that could sign a token (RSA of 2048 bits or more, EC or OKP); mend it there")
    return KeySet(keys)


def _trusted(issuer: str, ca: Path | None) -> ssl.SSLContext | bool:
    if issuer.startswith("http:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and takes no time to read the system's CAs
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsError(f"oidc_ca: {ca} is no PEM file of a CA ({error}); name the certificate of the CA") from None
