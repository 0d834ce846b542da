"""The agent's own key, and what it shows its coordinator: made here, kept here, known elsewhere by its digest only."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import grpc

from client_agent.settings import AgentSettings, SettingsError
from fedgalore.loopback import is_loopback

KEY_FILE = "agent.key"


@dataclass(frozen=True)
class Line:
    """How to speak to the coordinator. `channel`: None for plaintext; `key`, `join_token`: None without credentials."""

    channel: grpc.ChannelCredentials | None = None
    key: str | None = None
    join_token: str | None = None

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
        SettingsError: TLS is missing or can not be had, or a secret would travel in plaintext.
    """
    local = is_loopback(settings.coordinator.rpartition(":")[0])
    tls = not settings.insecure and (not local or settings.ca is not None)
    key = _key(settings.work_dir / KEY_FILE, make=settings.join_token is not None)
    if key and not tls and not local:
        raise SettingsError(
            f"insecure: {settings.coordinator} is beyond this machine, and the key in {settings.work_dir / KEY_FILE} "
            "must not travel there in plaintext: use TLS, or unset join_token and delete that file"
        )
    token = settings.join_token.get_secret_value() if settings.join_token else None
    return Line(_channel(settings) if tls else None, key, token)


def _channel(settings: AgentSettings) -> grpc.ChannelCredentials:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError("tls_cert, tls_key: certificate and key go together; set both or none")
    return grpc.ssl_channel_credentials(
        _read("ca", settings.ca), _read("tls_key", settings.tls_key), _read("tls_cert", settings.tls_cert)
    )


def _read(field: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{field}: {path} can not be read ({error}); name a PEM file") from None
    if b"-----BEGIN " not in content:
        raise SettingsError(f"{field}: {path} is no PEM file")
    return content


def _key(path: Path, make: bool) -> str | None:
    """The key in the file; None, unless one is to be made, when there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        if not make:
            return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"work_dir: the agent's key {path} can not be read ({error})") from None
    key = f"fga_{secrets.token_hex(32)}"
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return key
