"""Who calls the people's door."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.store.credentials import Role


@dataclass(frozen=True)
class Caller:
    """`key`: the id of the API key, or `oidc:` and the subject of a token; empty where nobody is asked for one."""

    role: Role
    key: str = ""
    name: str = ""
    shows: str = "key"  # or `token`: what it came in by

    def __str__(self) -> str:
        return f"{self.name} {self.key}".strip()
