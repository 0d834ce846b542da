"""Where a coordinator is, the key that is shown to it, and whose certificates are believed.

What an argument leaves out comes from the environment: the address from FEDGALORE_URL, the key from FEDGALORE_API_KEY
or the file that FEDGALORE_API_KEY_FILE names, the CA's file from FEDGALORE_CA. Where a context is named, or neither
argument nor environment names an address, they come from a context (`fedgalore.client.contexts`), and from the
environment what it lacks. A context's key goes to the context's address and to no other, and so does the
environment's key where FEDGALORE_URL says whose it is. Where there is no key for the address, the token of whoever has
signed in there (`fedgalore.client.logins`) goes along.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedgalore.client import contexts, logins
from fedgalore.client.contexts import Context
from fedgalore.client.errors import WrongArgument
from fedgalore.client.logins import Bearer
from fedgalore.process.address import REST_PORT, check_url
from fedgalore.process.settings import SettingsError, with_secrets
from fedgalore.process.tls import is_loopback

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Access:
    """A checked address, what goes along with each request, and the file of the CA, None for those of the system.

    `login`: whether the token of the login there goes along, which is renewed before it expires.
    """

    url: str
    headers: dict[str, str]
    ca: Path | None
    login: bool = False

    @classmethod
    def of(
        cls,
        url: str | None = None,
        key: str | None = None,
        ca: str | Path | None = None,
        context: str | None = None,
    ) -> Access:
        """
        Args:
            context: its name, in place of an address; by default FEDGALORE_CONTEXT, or the current one.

        Raises:
            WrongArgument: one of the values cannot be used.
        """
        if url is not None and context is not None:
            raise WrongArgument("context", f"{context} does not go with an address; leave one of the two out")
        named_by = os.environ.get("FEDGALORE_URL")
        source = Context.model_construct(url=named_by or DEFAULT_URL)
        if url is None and (context is not None or not named_by):
            source = _context(context)
        address = url or source.url
        try:
            where = urlsplit(check_url(address, ("http", "https"), REST_PORT))
        except ValueError as error:
            raise WrongArgument("url", str(error)) from None
        elsewhere = named_by is not None and named_by.rstrip("/") != address.rstrip("/")
        label, secret = _key(key, source.key_file, from_environment=not elsewhere)
        login = secret is None and logins.is_there(address)
        if secret is not None and where.scheme != "https" and not is_loopback(where.hostname or ""):
            raise WrongArgument(
                label,
                f"the key must not travel to {where.hostname} in plaintext; give an https:// address, or unset the key",
            )
        authority = ca or source.ca or os.environ.get("FEDGALORE_CA")
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return cls(address.rstrip("/"), headers, Path(authority) if authority else None, login)

    def for_httpx(self, timeout_s: float) -> dict[str, Any]:
        """The arguments of a client of httpx.

        Raises:
            WrongArgument: the CA's file is none.
        """
        return {
            "base_url": self.url,
            "headers": self.headers,
            "auth": Bearer(self.url) if self.login else None,
            "verify": self._trusted(),
            "timeout": timeout_s,
            "trust_env": not is_loopback(urlsplit(self.url).hostname or ""),  # a proxy would take it off this machine
        }

    def _trusted(self) -> ssl.SSLContext | bool:
        if not self.url.lower().startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and takes no time to read the system's CAs
        if self.ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            problem = f"{self.ca} is no PEM file of a CA ({error}); name the certificate of the CA"
            raise WrongArgument("FEDGALORE_CA", problem) from None


def _context(name: str | None) -> Context:
    """The context of this name, or the one that is taken where none is named; this machine's, where there is none."""
    name = name or os.environ.get("FEDGALORE_CONTEXT") or None
    found = contexts.read(contexts.place())
    chosen = name or found.current
    return found.named(chosen) if chosen is not None else Context(url=DEFAULT_URL)


def _key(given: str | None, file: Path | None, from_environment: bool) -> tuple[str, str | None]:
    """What the key is called in messages, and the key itself, None where there is none. `file`: of the context."""
    name, key = "key", given
    if key is None and file is not None:
        name = "key_file"
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongArgument(name, f"{file} cannot be read ({error}); name the file that holds the key") from None
    elif key is None and from_environment:
        environment = os.environ.get("FEDGALORE_API_KEY")
        try:
            key = with_secrets({"api_key": environment} if environment else {}, "FEDGALORE_", ("api_key",)).get(
                "api_key"
            )
        except SettingsError as error:
            raise WrongArgument(*str(error).split(": ", 1)) from None
        name = "FEDGALORE_API_KEY" if environment else "FEDGALORE_API_KEY_FILE"
    if key is None:
        return name, None
    if not key:
        raise WrongArgument(name, "the file is empty; name the file that holds the key")
    if not key.isascii() or not key.isprintable() or " " in key:
        problem = "the key holds characters that no key has; make a key with `fedgalore keys create`"
        raise WrongArgument(name, problem)
    return name, key
