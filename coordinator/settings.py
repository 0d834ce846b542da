"""Settings of a coordinator process: flags, then the environment (`FEDGALORE_*`), then a YAML file, then defaults.

This module is the only one of the coordinator that reads the environment. A secret may come from a file instead of a
variable: `FEDGALORE_REDIS_URL_FILE` names a file that holds the value.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import EnvSettingsSource, SettingsConfigDict

from coordinator.state.limits import (
    MAX_AGENTS,
    MAX_CALLS_PER_CLIENT,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_JOBS,
    MAX_REQUESTS_PER_KEY,
)
from coordinator.store.credentials import Role
from coordinator.store.redis_address import RedisAddress
from fedgalore.data.column_names import ColumnNames
from fedgalore.process.address import check_host, check_url
from fedgalore.process.settings import MergedSettings, SettingsError, expanded, from_file, with_secrets
from fedgalore.process.threads import ThreadSetting
from fedgalore.process.tls import is_loopback
from fedgalore.spec.documents import printable
from fedgalore.spec.findings import WHOLE, explain
from fedgalore.spec.strict import IDENTIFIER, Identifier, Strict

PREFIX = "FEDGALORE_"
SECRETS = ("redis_url", "operator_key")
SHORTEST_KEY = 32  # characters
HTTPS_PORT = 443
Host = Annotated[str, AfterValidator(check_host)]
_BUCKET = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*/?", re.ASCII)
_ORIGIN = re.compile(r"https?://([a-z0-9.-]{1,253}|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)


def check_origin(origin: str) -> str:
    """Raises `ValueError` for what no browser sends as the origin of a page."""
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            f"{printable(origin, 60)} is no origin of pages; write scheme and host in small letters, and the port "
            "where it is not the scheme's own, such as https://portal.example or http://localhost:3000"
        )
    return origin


Origin = Annotated[str, AfterValidator(check_origin)]


class Grant(Strict):
    """What people of a group of the identity provider may do, and in which team; `*`: in all."""

    role: Role
    team: str = Field(pattern=rf"^\*$|{IDENTIFIER}")


class HeldOutSet(ColumnNames):
    """Examples that no site holds, to evaluate models on: a file, or a folder of images by class."""

    file: Path

    @model_validator(mode="after")
    def _columns_make_examples(self) -> HeldOutSet:
        self.split_file(self.file)  # raises what is wrong with them
        return self


def not_held_out(name: str, sets: Collection[str]) -> str:
    """Why a job that names this set cannot be."""
    known = f"it holds out {', '.join(sorted(sets))}" if sets else "it holds out none"
    return f"the coordinator holds out no data set {name!r} ({known}); its operator adds it to the setting held_out"


class CoordinatorSettings(MergedSettings):
    """Settings of the coordinator and of its aggregator. Build them with `load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,
        description="State store: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
        json_schema_extra={"writeOnly": True},  # it may hold a password
    )
    blob_dir: Path = Field(default=Path("fedgalore-blobs"), description="Directory of weights and updates")
    blobs: str | None = Field(
        default=None, description="Bucket of weights and updates, such as s3://bucket/prefix; blob_dir has copies then"
    )
    blob_cache_bytes: int = Field(
        default=10 * 10**9, ge=2**20, le=2**60, description="What copies of a bucket's blobs may take in blob_dir"
    )
    direct_downloads: bool = Field(
        default=False, description="Agents that ask for it get signed URLs of a bucket's large blobs"
    )
    rest_host: Host = Field(default="127.0.0.1", description="Address that REST listens on")
    rest_port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    grpc_host: Host = Field(default="127.0.0.1", description="Address that agents connect to")
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="0: any free port")
    port_file: Path | None = Field(default=None, description="Written when ready: the ports as JSON")
    aggregator: bool = Field(default=True, description="Start an aggregator process beside the doors")
    aggregator_metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Where the aggregator shows its own metrics, beside /metrics of REST"
    )
    metrics_host: Host = Field(default="127.0.0.1", description="Address of that page, which asks for no key")
    threads: ThreadSetting = Field(
        default="auto", description="CPU threads of the aggregator; auto: by cores, quota and our other processes"
    )
    presence_s: float = Field(default=30, ge=1, le=3600, description="Time a silent agent counts as present")
    max_agents: int = Field(default=MAX_AGENTS, ge=1, le=1_000_000, description="Clients that can be enrolled")
    max_jobs: int = Field(default=MAX_JOBS, ge=1, le=1_000_000, description="Jobs that can be active at a time")
    max_connections: int = Field(
        default=MAX_CONNECTIONS, ge=1, le=1_000_000, description="Connections that each door holds at a time"
    )
    max_connections_per_address: int = Field(
        default=MAX_CONNECTIONS_PER_ADDRESS,
        ge=1,
        le=1_000_000,
        description="Of them, from one address; all agents behind one NAT or proxy have one",
    )
    max_requests_per_key: int = Field(
        default=MAX_REQUESTS_PER_KEY, ge=1, le=1_000_000, description="Requests at a time with one API key"
    )
    max_calls_per_client: int = Field(
        default=MAX_CALLS_PER_CLIENT, ge=1, le=1000, description="Calls at a time of one agent"
    )
    operator_key: SecretStr | None = Field(
        default=None, description="API key of an operator; with it, both doors ask everybody for credentials"
    )
    oidc_issuer: str | None = Field(
        default=None, description="Identity provider (OpenID Connect) whose people are let in, its URL as it says it"
    )
    oidc_client_id: str | None = Field(
        default=None, description="What the provider calls the public client that people sign in by"
    )
    oidc_audience: str | None = Field(default=None, description="For whom tokens have to be (aud); default: the client")
    oidc_token: Literal["access_token", "id_token"] = Field(
        default="access_token", description="Which of the provider's tokens commands and the dashboard send"
    )
    oidc_scopes: str = Field(
        default="openid profile email offline_access",
        pattern=r"^[!-~]+( [!-~]+)*$",
        description="What they ask the provider for, with spaces between",
    )
    oidc_groups_claim: str = Field(
        default="groups", min_length=1, description="Claim of tokens that lists groups; dots lead into objects"
    )
    oidc_groups: dict[str, Grant] = Field(
        default={}, description='What people of each group may do, such as {"staff": {"role": "viewer", "team": "*"}}'
    )
    oidc_ca: Path | None = Field(
        default=None, description="CA of the provider's certificate, PEM; default: the system's"
    )
    tls_cert: Path | None = Field(default=None, description="Certificate chain of both doors, PEM")
    tls_key: Path | None = Field(default=None, description="Its key, PEM")
    client_ca: Path | None = Field(default=None, description="CA of the certificates that agents have to show, PEM")
    mutual_tls: bool = Field(default=True, description="Whether a door that is open to the network needs client_ca")
    insecure: bool = Field(default=False, description="Plaintext and no credentials, also beyond this machine")
    cors_origins: tuple[Origin, ...] = Field(
        default=(), description="Pages of other origins that may call REST, such as https://portal.example"
    )
    lease_s: float = Field(
        default=10, ge=1, le=300, description="Time after which another replica takes over from a replica that died"
    )
    drain_s: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="Time that the doors stay open after SIGTERM, while readiness says no: balancers look elsewhere",
    )
    sweep_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of all bytes that may be deleted at a time without a job's word"
    )
    sweep_blobs: int = Field(
        default=1000, ge=1, le=1_000_000, description="Blobs that may be deleted at a time without a job's word"
    )
    audit_entries: int = Field(
        default=100_000,
        ge=100,
        le=100_000_000,
        description="Entries that the audit keeps of people, agents and strangers each",
    )
    allow_pickle: bool = Field(
        default=False, description="Take model folders whose weights are a pickle, read without running code"
    )
    held_out: dict[Identifier, HeldOutSet] = Field(
        default={}, description="Data sets that jobs may name by evaluation.central: file and columns, by name"
    )
    metrics: tuple[str, ...] = Field(
        default=(), description="Metrics of other packages that jobs may name, as package.module:NAME"
    )
    log_format: Literal["auto", "json", "text"] = Field(default="auto", description="auto: JSON unless at a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("redis_url")
    @classmethod
    def _right_form(cls, url: str) -> str:
        RedisAddress.parse(url)
        return url

    @field_validator("oidc_issuer")
    @classmethod
    def _safe(cls, url: str | None) -> str | None:
        if url is None:
            return None
        check_url(url, ("https", "http"), HTTPS_PORT)
        parts = urlsplit(url)
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{printable(url, 200)} has more than host and path; write it as the provider does")
        if parts.scheme.lower() != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError("is no https:// address: whoever is on the line could sign tokens; give it with https://")
        return url

    @field_validator("operator_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(rf"[!-~]{{{SHORTEST_KEY},512}}", key.get_secret_value()):
            raise ValueError(f"must have {SHORTEST_KEY} to 512 characters of ASCII without spaces")
        return key

    @field_validator("blob_dir", "port_file", "tls_cert", "tls_key", "client_ca", "oidc_ca")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        return expanded(path) if path else path

    @field_validator("blobs")
    @classmethod
    def _names_a_bucket(cls, url: str | None) -> str | None:
        if url is not None and not _BUCKET.fullmatch(url):
            raise ValueError(
                f"{printable(url, 60)} names no bucket; write it such as s3://bucket/prefix, gs://bucket/prefix or "
                "az://account/container/prefix, and a folder of this machine as blob_dir"
            )
        return url

    @field_validator("held_out")
    @classmethod
    def _expand_files(cls, sets: dict[str, HeldOutSet]) -> dict[str, HeldOutSet]:
        return {name: each.model_copy(update={"file": expanded(each.file).absolute()}) for name, each in sets.items()}

    def environment(self) -> dict[str, str]:
        """This process' variables with these settings in them, for a child that shares the state and the blobs.

        The operator's key is not among them: an aggregator opens no door.
        """
        values = {
            "redis_url": self.redis_url,
            "blob_dir": str(self.blob_dir.absolute()),
            "blobs": self.blobs,
            "blob_cache_bytes": self.blob_cache_bytes,
            "threads": self.threads,
            "aggregator_metrics_port": self.aggregator_metrics_port,
            "metrics_host": self.metrics_host,
            "presence_s": self.presence_s,
            "lease_s": self.lease_s,
            "allow_pickle": self.allow_pickle,
            "metrics": json.dumps(self.metrics),
            "held_out": json.dumps({name: each.model_dump(mode="json") for name, each in self.held_out.items()}),
            "log_format": self.log_format,
            "log_level": self.log_level,
        }
        variables = {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}
        # A secret's value is among them, so the file that it came from must not be named a second time.
        left_out = {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS} | {f"{PREFIX}OPERATOR_KEY"}
        return {name: value for name, value in os.environ.items() if name not in left_out} | variables

    @property
    def redis_address(self) -> str:
        """The Redis URL without its credentials, fit for logs and answers."""
        parts = urlsplit(self.redis_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> CoordinatorSettings:
    """Merges the sources; flags that are None count as not given.

    Raises:
        SettingsError: naming the variable, flag or file and what it should hold.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    flag = str(given.get("redis_url", ""))
    _, _, login_and_host = flag.partition("://")
    if ":" in login_and_host.rpartition("@")[0] or "password" in flag.partition("?")[2]:
        raise SettingsError(
            "--redis-url: holds a password, which every process list would show; give the URL by FEDGALORE_REDIS_URL "
            "or FEDGALORE_REDIS_URL_FILE"
        )
    environment = with_secrets(EnvSettingsSource(CoordinatorSettings)(), PREFIX, SECRETS)
    merged = {**from_file(config, "such as `redis_url: redis://...`"), **environment, **given}
    try:
        return CoordinatorSettings(**merged)
    except ValidationError as error:
        rows = explain(error, CoordinatorSettings)
        raise SettingsError("\n".join(_line(row["field"], row["problem"], given) for row in rows)) from None


def _line(field: str, problem: str, flags: Container[str]) -> str:
    name, _, rest = field.partition(".")
    if name not in CoordinatorSettings.model_fields:
        known = ", ".join(CoordinatorSettings.model_fields)
        return f"{field}: {problem} (known: {known})" if name != WHOLE else f"settings: {problem}"
    where = f"--{name.replace('_', '-')}" if name in flags else f"{PREFIX}{name.upper()} (in a file: {name})"
    return f"{where}: {rest}: {problem}" if rest else f"{where}: {problem}"
