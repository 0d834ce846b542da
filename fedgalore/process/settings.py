"""What the settings of agents and coordinator share: how they are built, and the YAML file that may hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fedgalore.process import faults
from fedgalore.spec.documents import DocumentError, printable, read_yaml


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each key and its remedy, one a line."""


class MergedSettings(BaseSettings):
    """Holds only what it is given: a subclass' `load` has merged the sources in their order."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="forbid", frozen=True)

    fault: str | None = Field(
        default=None, description="Where to die, for tests of recovery: `fedgalore.process.faults`"
    )

    @field_validator("fault")
    @classmethod
    def _known_fault(cls, text: str | None) -> str | None:
        if text is not None:
            faults.parse(text)
        return text

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def with_secrets(values: dict[str, Any], prefix: str, names: Iterable[str]) -> dict[str, Any]:
    """The values of the environment, with secrets from the files that `<PREFIX><NAME>_FILE` variables name.

    Raises:
        SettingsError: a secret is given twice, or its file cannot be read.
    """
    merged = dict(values)
    for name in names:
        variable = f"{prefix}{name.upper()}"
        path = os.environ.get(f"{variable}_FILE")
        if not path:
            continue
        if name in values:
            raise SettingsError(f"{variable} and {variable}_FILE are both set: unset one of them")
        try:
            merged[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}_FILE: {path} cannot be read ({error}): name a readable file") from None
    return merged


def from_file(config: Path | None, shape: str) -> dict[str, Any]:
    """The values of a YAML file; none without a file, or in an empty one.

    Args:
        shape: for the error, what the mapping looks like.

    Raises:
        SettingsError: the file cannot be read, or is no mapping.
    """
    if config is None:
        return {}
    try:
        document = read_yaml(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config: {config} cannot be read ({error}); name a readable YAML file") from None
    except DocumentError as error:
        raise SettingsError(f"--config: {config} is {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"--config: {config} must be a mapping {shape}")
    values = {str(key): value for key, value in document.items()}
    if hidden := [
        key for key in values if key.startswith("_")
    ]:  # what pydantic itself would take, such as a command line
        raise SettingsError(f"{printable(hidden[0], 60)}: unknown key; remove it or check its spelling")
    return values


def expanded(path: Path) -> Path:
    """The path with `~` written out.

    Raises:
        ValueError: no file can have this name, or nobody that of the user.
    """
    if "\0" in str(path):
        raise ValueError(f"{printable(str(path), 60)} has a zero byte in it; correct the path")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error} Write the path out") from None
