"""The agent's own key, and what it shows its coordinator: made here, kept here, known elsewhere by its digest only."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from client_agent.settings import AgentSettings
from fedgalore.process.settings import SettingsError
from fedgalore.process.tls import expiry, is_loopback

KEY_FILE = "agent.key"
_log = structlog.get_logger(__name__)
_KEY = re.compile(r"fga_[0-9a-f]{64}")


@dataclass(frozen=True)
class Line:
    """How to speak to the coordinator. `channel`: None for plaintext; `key`, `join_token`: None without credentials."""

    channel: grpc.ChannelCredentials | None = None
    key: str | None = field(default=None, repr=False)
    join_token: str | None = field(default=None, repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()

    @property
    def key_sha256(self) -> str:
        """What the coordinator keeps of the key."""
        return hashlib.sha256((self.key or "").encode()).hexdigest()


def line(settings: AgentSettings) -> Line:
    """The line to the coordinator: TLS unless it is on this machine, the key of the work folder once there is one.

    Raises:
        SettingsError: TLS is missing or cannot be had, a secret would travel in plaintext, or cannot be read.
    """
    local = is_loopback(settings.coordinator.rpartition(":")[0])
    tls = not settings.insecure and (not local or settings.ca is not None)
    if not tls and (unused := [name for name in ("ca", "tls_cert", "tls_key") if getattr(settings, name) is not None]):
        remedy = "unset insecure" if settings.insecure else "name the ca as well"
        raise SettingsError(f"{unused[0]}: the line to {settings.coordinator} is plaintext: {remedy}, or unset it")
    path = settings.work_dir / KEY_FILE
    token = _token(settings, needed=not path.exists())
    key = _key(path, make=token is not None)
    if key and not tls and not local:
        raise SettingsError(
            f"insecure: {settings.coordinator} is beyond this machine, and the key in {path} must not travel there in "
            "plaintext: use TLS, or unset join_token and delete that file"
        )
    if tls and settings.tls_cert is not None:
        _check_end(settings.tls_cert)
    return Line(_channel(settings) if tls else None, key, token)


def _token(settings: AgentSettings, needed: bool) -> str | None:
    """The join token; an agent that has a key does without one that is not there any more."""
    if settings.join_token is not None and settings.join_token_file is not None:
        raise SettingsError("join_token, join_token_file: both are set; unset one of them")
    token = settings.join_token.get_secret_value() if settings.join_token else ""
    if settings.join_token_file is not None:
        try:
            token = settings.join_token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            if needed:
                raise SettingsError(f"join_token_file: {settings.join_token_file} cannot be read ({error})") from None
        if needed and not token:
            raise SettingsError(f"join_token_file: {settings.join_token_file} is empty; put the token into it")
    return token or None


def _channel(settings: AgentSettings) -> grpc.ChannelCredentials:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError("tls_cert, tls_key: certificate and key go together; set both or none")
    return grpc.ssl_channel_credentials(
        _read("ca", settings.ca), _read("tls_key", settings.tls_key), _read("tls_cert", settings.tls_cert)
    )


def _check_end(certificate: Path) -> None:
    """Warns of a certificate that ends soon: its line would only look like a coordinator that is away."""
    try:
        odd = expiry(certificate)
    except (OSError, ValueError) as error:
        raise SettingsError(f"tls_cert: {certificate} is no certificate ({error})") from None
    if odd:
        _log.warning("certificate", detail=odd)


def _read(field: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{field}: {path} cannot be read ({error}); name a PEM file") from None
    if b"-----BEGIN " not in content:
        raise SettingsError(f"{field}: {path} is no PEM file")
    return content


def _key(path: Path, make: bool) -> str | None:
    """The key in the file; None, unless one is to be made, when there is none."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _new_key(path) if make else None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"work_dir: the agent's key {path} cannot be read ({error})") from None
    if not _KEY.fullmatch(key):
        raise SettingsError(f"work_dir: {path} holds no key; delete it, and start the agent with a new join token")
    return key


def _new_key(path: Path) -> str:
    key = f"fga_{secrets.token_hex(32)}"
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the coordinator is about to take this key for a token that is good once
    finally:
        os.close(folder)
    return key
