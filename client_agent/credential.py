"""The agent's key, and its line to the coordinator.

The agent draws the key, and keeps it in its work folder. The coordinator keeps a digest of it only.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from client_agent.settings import AgentSettings
from fedgalore.process import durable
from fedgalore.process.address import targets
from fedgalore.process.settings import SettingsError
from fedgalore.process.tls import expiry, is_loopback
from protos import INSTANCE_KEY

KEY_FILE = "agent.key"
_log = structlog.get_logger(__name__)
_KEY = re.compile(r"fga_[0-9a-f]{64}")


@dataclass(frozen=True)
class Line:
    """How to call the coordinator. `channel` is None for plaintext; `key` and `join_token` are None where unused.

    `instance`: which agent calls, as `client_agent.instance` names it.
    """

    channel: grpc.ChannelCredentials | None = None
    key: str | None = field(default=None, repr=False)
    join_token: str | None = field(default=None, repr=False)
    instance: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call but the one that brings the key in."""
        key = (("authorization", f"Bearer {self.key}"),) if self.key else ()
        return (*key, *self.instance_metadata)

    @property
    def instance_metadata(self) -> tuple[tuple[str, str], ...]:
        """Which agent calls."""
        return ((INSTANCE_KEY, self.instance),) if self.instance else ()

    @property
    def key_sha256(self) -> str:
        """The digest by which the coordinator knows the key."""
        return hashlib.sha256((self.key or "").encode()).hexdigest()


def line(settings: AgentSettings) -> Line:
    """The line to the coordinator: with TLS unless the coordinator is on this machine, with the key of the work folder.

    If there is a join token and no key yet, a new key is written.

    Raises:
        SettingsError: TLS is missing or cannot be set up, a secret would travel in plaintext, or cannot be read.
    """
    local = all(is_loopback(address.rpartition(":")[0]) for address in targets(settings.coordinator))
    tls = not settings.insecure and (not local or settings.ca is not None)
    if not tls and (unused := [name for name in ("ca", "tls_cert", "tls_key") if getattr(settings, name) is not None]):
        remedy = "unset insecure" if settings.insecure else "name the ca as well"
        raise SettingsError(f"{unused[0]}: the line to {settings.coordinator} is plaintext: {remedy}, or unset it")
    path = settings.work_dir / KEY_FILE
    token = _token(settings, needed=not path.exists())
    key = _key(path, create=token is not None)
    if key and not tls and not local:
        raise SettingsError(
            f"insecure: {settings.coordinator} is on another machine, and the key in {path} must not travel there in "
            "plaintext; use TLS, or unset join_token and delete that file"
        )
    if tls and settings.tls_cert is not None:
        _warn_of_expiry(settings.tls_cert)
    return Line(_channel(settings) if tls else None, key, token)


def _token(settings: AgentSettings, needed: bool) -> str | None:
    """The join token. An agent that has a key does not need it, so that its file may be gone."""
    if settings.join_token is not None and settings.join_token_file is not None:
        raise SettingsError("join_token, join_token_file: both are set; unset either")
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
        raise SettingsError("tls_cert, tls_key: a certificate and its key go together; set both or none")
    return grpc.ssl_channel_credentials(
        _read("ca", settings.ca), _read("tls_key", settings.tls_key), _read("tls_cert", settings.tls_cert)
    )


def _warn_of_expiry(certificate: Path) -> None:
    """Warns of a certificate that expires soon. Later the coordinator would only seem not to answer."""
    try:
        warning = expiry(certificate)
    except (OSError, ValueError) as error:
        raise SettingsError(f"tls_cert: {certificate} is no certificate ({error}); name a PEM file") from None
    if warning:
        _log.warning("certificate_expiring", reason=warning)


def _read(field: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{field}: {path} cannot be read ({error}); name a PEM file") from None
    if b"-----BEGIN " not in content:
        raise SettingsError(f"{field}: {path} is no PEM file; name a PEM file")
    return content


def _key(path: Path, create: bool) -> str | None:
    """The key in the file. Where there is no file: a new key if `create`, else None."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _new_key(path) if create else None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"work_dir: the agent's key {path} cannot be read ({error}); correct its rights, or delete it and start "
            "the agent with a new join token"
        ) from None
    if not _KEY.fullmatch(key):
        raise SettingsError(f"work_dir: {path} holds no key; delete it, and start the agent with a new join token")
    return key


def _new_key(path: Path) -> str:
    key = f"fga_{secrets.token_hex(32)}"
    # The key must be on the disk before the coordinator accepts it, because the join token is valid only once.
    try:
        with durable.survives_power_cut(path, durable.SECRET) as draft:
            draft.write_text(f"{key}\n", encoding="ascii")
    except OSError as error:
        raise SettingsError(
            f"work_dir: the agent's key {path} cannot be written ({error}); correct the folder's rights, or name "
            "another"
        ) from error
    return key
