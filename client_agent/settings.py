"""What an agent is told: flags, then the environment (`FEDGALORE_AGENT_*`), then a YAML file, then defaults.

This module is the only one of the agent that reads the environment. Relative paths in a config
file are seen from its folder, those of flags and variables from the folder in which the agent is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import EnvSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from client_agent.policy import Policy
from client_agent.protection import Protection
from fedgalore.data.column_names import ColumnNames
from fedgalore.process.address import check_host, check_targets
from fedgalore.process.settings import MergedSettings, SettingsError, expanded, from_file
from fedgalore.process.threads import ThreadSetting
from fedgalore.spec.findings import explain
from fedgalore.spec.strict import Identifier

PREFIX = "FEDGALORE_AGENT_"


class DataSet(ColumnNames):
    """One data set of the site: its files and the columns that matter in them, or folders of images by class."""

    train: Path
    test: Path | None = None

    @model_validator(mode="after")
    def _columns_make_examples(self) -> DataSet:
        self.split_file(self.train)  # raises what is wrong with them
        return self


class AgentSettings(MergedSettings):
    """Settings of one agent. Build them with `load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    name: Identifier = Field(description="The client's name; unique in the federation")
    coordinator: Annotated[str, AfterValidator(check_targets)] = Field(
        default="127.0.0.1:50051",
        description="host:port of its gRPC door, an IPv6 address in brackets; of several replicas with commas between "
        "them, of which the next is taken where one does not answer",
    )
    work_dir: Path = Field(description="Folder of this agent alone: its key, downloads, base models, updates")
    join_token: SecretStr | None = Field(default=None, description="Lets this client bring a key of its own, once")
    join_token_file: Path | None = Field(default=None, description="File that holds it, in place of join_token")
    ca: Path | None = Field(default=None, description="CA of the coordinator's certificate, PEM; default: the system's")
    tls_cert: Path | None = Field(default=None, description="This client's certificate, PEM")
    tls_key: Path | None = Field(default=None, description="Its key, PEM")
    insecure: bool = Field(default=False, description="Plaintext, also to a coordinator beyond this machine")
    direct_hosts: tuple[Annotated[str, AfterValidator(check_host)], ...] = Field(
        default=(), description="Hosts of the coordinator's bucket from which large downloads may come; none: no host"
    )
    threads: ThreadSetting = Field(
        default="auto", description="torch's CPU threads; auto: by cores, quota and our other processes"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda when there is one. Several GPUs share a model that needs them"
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Memory that a job's model may take, of the GPUs where it lies there; default: all",
    )
    models: tuple[Path, ...] = Field(default=(), description="Folders of base models that are already here")
    data: dict[Identifier, DataSet] = Field(min_length=1, description="Data sets by the name that jobs use")
    policy: Policy = Field(default=Policy(), description="What jobs may do here: docs/SITES.md")
    protection: Protection | None = Field(
        default=None, description="Noise that the agent adds to its updates: docs/SITES.md; null: none"
    )
    metrics: tuple[str, ...] = Field(
        default=(), description="Metrics of other packages that jobs may count here, as package.module:NAME"
    )
    cache_bytes: int = Field(default=4 * 2**30, ge=0, description="Downloads kept beyond the round at hand")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Where the agent shows its metrics to Prometheus; null: nowhere"
    )
    metrics_host: Annotated[str, AfterValidator(check_host)] = Field(
        default="127.0.0.1", description="Address of that page, which asks for no key"
    )
    log_format: Literal["auto", "json", "text"] = Field(default="auto", description="auto: JSON unless at a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = "info"


_FILES = ("work_dir", "ca", "tls_cert", "tls_key", "join_token_file")


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> AgentSettings:
    """Merges the sources; flags that are None count as not given.

    Raises:
        SettingsError: one line a finding, with the key and what it should hold.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        merged = {
            **from_file(config, "with the keys name, coordinator, work_dir, data, ..."),
            **_from_here({**EnvSettingsSource(AgentSettings)(), **given}),
        }
        settings = AgentSettings(**merged)
    except ValidationError as error:
        rows = [f"{row['field']}: {row['problem']}" for row in explain(error, AgentSettings)]
        raise SettingsError("\n".join(rows)) from None
    except SourceError as error:
        raise SettingsError(f"{PREFIX}*: {error}; give lists and mappings as JSON") from None
    return _anchored(settings, (config.parent if config else Path()).absolute())


def _from_here(values: dict[str, Any]) -> dict[str, Any]:
    """What the environment and flags say, with paths seen from the folder in which the agent is started."""

    def seen(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [seen(each) for each in value]
        is_relative = isinstance(value, str | Path) and str(value)[:1] not in ("", "~")
        return Path.cwd() / value if is_relative else value

    def of_data(item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        return item | {split: seen(item[split]) for split in ("train", "test") if split in item}

    found = values | {name: seen(values[name]) for name in (*_FILES, "models") if name in values}
    if isinstance(data := values.get("data"), dict):
        found["data"] = {name: of_data(item) for name, item in data.items()}
    return found


def _anchored(settings: AgentSettings, base: Path) -> AgentSettings:
    """The settings with every path absolute; those of the config are seen from `base`, its folder."""

    def path(field: str, value: Path) -> Path:
        try:
            return base / expanded(value)
        except ValueError as error:
            raise SettingsError(f"{field}: {error}") from None

    data = {}
    for name, item in settings.data.items():
        splits = {"train": item.train, "test": item.test}
        data[name] = item.model_copy(
            update={key: path(f"data.{name}.{key}", split) if split else None for key, split in splits.items()}
        )
    models = tuple(path("models", folder) for folder in settings.models)
    for folder in models:
        if not _is_folder(folder):
            raise SettingsError(f"models: {folder} is not a folder; remove it or correct the path")
    given = {name: getattr(settings, name) for name in _FILES}
    files = {name: path(name, file) for name, file in given.items() if file is not None}
    return settings.model_copy(update={"models": models, "data": data, **files})


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name longer than any
        return False
