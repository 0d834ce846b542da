"""What a coordinator process is told: flags, then the environment (`FEDGALORE_*`), then a YAML file, then defaults.

This module is the only one of the coordinator that reads the environment. A secret may come from a file instead of a
variable: `FEDGALORE_REDIS_URL_FILE` names a file that holds the value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import EnvSettingsSource, SettingsConfigDict

from coordinator.agents import MAX_AGENTS
from coordinator.state_store import MAX_JOBS
from fedgalore.settings import MergedSettings, SettingsError, expanded, from_file

__all__ = ["CoordinatorSettings", "SettingsError", "load"]

PREFIX = "FEDGALORE_"
SECRETS = ("redis_url",)


class CoordinatorSettings(MergedSettings):
    """Settings of the coordinator and of its aggregator. Build them with `load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", description="State store: redis://, rediss:// or unix://"
    )
    blob_dir: Path = Field(default=Path("fedgalore-blobs"), description="Directory of weights and updates")
    rest_host: str = Field(default="127.0.0.1", min_length=1, description="Address that REST listens on")
    rest_port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    grpc_host: str = Field(default="127.0.0.1", min_length=1, description="Address that agents connect to")
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="0: any free port")
    port_file: Path | None = Field(default=None, description="Written when ready: the ports as JSON")
    aggregator: bool = Field(default=True, description="Start an aggregator process beside the doors")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of the aggregator; default: torch's"
    )
    presence_s: float = Field(default=30, ge=1, le=3600, description="Time a silent agent counts as present")
    max_agents: int = Field(default=MAX_AGENTS, ge=1, le=1_000_000, description="Clients that can be enrolled")
    max_jobs: int = Field(default=MAX_JOBS, ge=1, le=1_000_000, description="Jobs that can be active at a time")
    lease_s: float = Field(
        default=10, ge=1, le=300, description="Time after which another replica takes over from one that died"
    )
    allow_pickle: bool = Field(
        default=False, description="Take model folders whose weights are a pickle, read without running code"
    )
    log_format: Literal["auto", "json", "text"] = Field(default="auto", description="auto: JSON unless at a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return url

    @field_validator("blob_dir", "port_file")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        return expanded(path) if path else path

    def environment(self) -> dict[str, str]:
        """This process' variables with these settings in them, for a child that shares the state and the blobs."""
        values = {
            "redis_url": self.redis_url,
            "blob_dir": str(self.blob_dir.absolute()),
            "threads": self.threads,
            "presence_s": self.presence_s,
            "lease_s": self.lease_s,
            "allow_pickle": self.allow_pickle,
            "log_format": self.log_format,
            "log_level": self.log_level,
        }
        own = {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}
        # A secret's value is among them, so the file that it came from must not be named a second time.
        files = {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
        return {name: value for name, value in os.environ.items() if name not in files} | own

    @property
    def redis_address(self) -> str:
        """The Redis URL without its credentials, fit for logs and answers."""
        parts = urlsplit(self.redis_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> CoordinatorSettings:
    """Merges the sources; flags that are None count as not given.

    Raises:
        SettingsError: naming the variable, flag or file and what it should hold.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    merged = {**from_file(config, "such as `redis_url: redis://...`"), **_from_environment(), **given}
    try:
        return CoordinatorSettings(**merged)
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_line(item["loc"], item["msg"], item["type"]) for item in error.errors())
        ) from None


def _from_environment() -> dict[str, Any]:
    values = EnvSettingsSource(CoordinatorSettings)()
    for name in SECRETS:
        variable = f"{PREFIX}{name.upper()}"
        path = os.environ.get(f"{variable}_FILE")
        if not path:
            continue
        if name in values:
            raise SettingsError(f"{variable} and {variable}_FILE are both set: unset one of them")
        try:
            values[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}_FILE: {path} can not be read ({error}): name a readable file") from None
    return values


def _line(location: tuple[int | str, ...], message: str, kind: str) -> str:
    name = str(location[0]) if location else "settings"
    if kind == "extra_forbidden":
        known = ", ".join(CoordinatorSettings.model_fields)
        return f"{name}: not a setting; remove it or check its spelling (known: {known})"
    where = f"{PREFIX}{name.upper()} (flag --{name.replace('_', '-')}, key {name})"
    return f"{where}: {message.removeprefix('Value error, ')}"
