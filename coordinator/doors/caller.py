"""Who calls the people's door, and in which teams they may do what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.store.credentials import EVERYWHERE, Role

Teams = frozenset[str] | None  # None: all, and what belongs to none


@dataclass(frozen=True)
class Caller:
    """`roles`: by team; `EVERYWHERE` in its place stands for all.

    `key`: the id of the API key, or `oidc:` and the subject of a token; empty where nobody is asked for one.
    """

    roles: Mapping[str, Role]
    key: str = ""
    name: str = ""
    shows: str = "key"  # or `token`: what it came in by

    def __str__(self) -> str:
        return f"{self.name} {self.key}".strip()

    @property
    def role(self) -> Role:
        """The highest that they have anywhere."""
        return Role.OPERATOR if Role.OPERATOR in self.roles.values() else Role.VIEWER

    def teams(self, role: Role) -> Teams:
        """Where they have this role: an operator is a viewer as well."""
        held = frozenset(team for team, has in self.roles.items() if has in (role, Role.OPERATOR))
        return None if EVERYWHERE in held else held


def everywhere(role: Role) -> Mapping[str, Role]:
    return {EVERYWHERE: role}
