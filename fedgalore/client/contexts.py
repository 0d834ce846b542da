"""Coordinators by name: `fedgalore context` writes them into a TOML file, clients and commands read them.

```toml
current = "clinic"

[contexts.clinic]
url = "https://coordinator.example:8080"
key_file = "/home/me/.config/fedgalore/clinic.key"
ca = "/home/me/clinic-ca.pem"
```

The file is `FEDGALORE_CONFIG`, else `fedgalore/config.toml` in `XDG_CONFIG_HOME`, else in `~/.config`. It holds no
secret, only the names of files that do. Relative paths are seen from the folder of the file.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fedgalore.client.errors import WrongArgument
from fedgalore.process.address import REST_PORT, check_url
from fedgalore.process.durable import survives_power_cut
from fedgalore.spec.documents import printable

VARIABLE = "FEDGALORE_CONFIG"


class Context(BaseModel):
    """One coordinator: its address, the file of the API key, and the file of the CA, where they are needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    key_file: Path | None = None
    ca: Path | None = None

    @field_validator("url")
    @classmethod
    def _right_form(cls, text: str) -> str:
        return check_url(text, ("http", "https"), REST_PORT)


class Contexts(BaseModel):
    """What the file holds. `current`: the one that is taken where none is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    current: str | None = None
    contexts: dict[str, Context] = {}

    def named(self, name: str) -> Context:
        """
        Raises:
            WrongArgument: there is none of this name.
        """
        if name not in self.contexts:
            known = f"there are {', '.join(sorted(self.contexts))}" if self.contexts else "there are none yet"
            raise WrongArgument(
                "context", f"there is no {printable(name, 60)!r}; {known}; `fedgalore context add` makes one"
            )
        return self.contexts[name]


def place() -> Path:
    """The file of contexts, which need not exist.

    Raises:
        WrongArgument: it would be in a home folder that nobody knows.
    """
    named, home = os.environ.get(VARIABLE), os.environ.get("XDG_CONFIG_HOME")
    try:
        if named:
            return Path(named).expanduser()
        config = Path(home) if home and Path(home).is_absolute() else Path.home() / ".config"
    except RuntimeError:  # a container's user often has none
        raise WrongArgument(VARIABLE, "this user has no such home folder; name the file by its whole path") from None
    return config / "fedgalore" / "config.toml"


def read(file: Path) -> Contexts:
    """The contexts of a file; none where there is no file.

    Raises:
        WrongArgument: it cannot be read, or holds something else.
    """
    try:
        found = Contexts.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Contexts()
    except ValidationError as wrong:
        first = wrong.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        raise WrongArgument(VARIABLE, f"{file}: {problem}; correct the file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongArgument(VARIABLE, f"{file} cannot be read as TOML ({error}); correct the file") from None
    if found.current is not None and found.current not in found.contexts:
        raise WrongArgument(VARIABLE, f"{file}: current: there is no context {found.current!r}; correct the file")
    base = file.absolute().parent
    anchored = {name: _anchored(each, base) for name, each in found.contexts.items()}
    return found.model_copy(update={"contexts": anchored})


def write(file: Path, contexts: Contexts) -> None:
    """
    Raises:
        WrongArgument: the file cannot be written.
    """
    lines = [f"current = {_quoted(contexts.current)}"] if contexts.current is not None else []
    for name, each in contexts.contexts.items():
        lines += ["", f"[contexts.{_quoted(name)}]"]
        values: Mapping[str, Any] = each.model_dump(mode="json", exclude_none=True)
        lines += [f"{key} = {_quoted(value)}" for key, value in values.items()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with survives_power_cut(file) as draft:
            draft.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")
    except OSError as error:
        raise WrongArgument(VARIABLE, f"{file} cannot be written ({error}); name another file") from None


def _anchored(context: Context, base: Path) -> Context:
    files = {name: base / path.expanduser() for name in ("key_file", "ca") if (path := getattr(context, name))}
    return context.model_copy(update=files)


def _quoted(text: str) -> str:
    """A basic string of TOML, which escapes as JSON does, and DEL as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
