"""Options that many commands share, and what was chosen before the command's name."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedgalore.client import Client

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Address of the coordinator's REST door [FEDGALORE_URL]. The key comes from FEDGALORE_API_KEY or "
        "FEDGALORE_API_KEY_FILE. Without an address: the current context, else http://127.0.0.1:8080.",
        show_default=False,
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `fedgalore jobs list` shows it.")]


class Format(StrEnum):
    """How a command prints what it has found."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[
    Format, typer.Option("--output", "-o", help="For people, or a document as JSON or YAML.", case_sensitive=False)
]


@dataclass
class Chosen:
    """What stands before the command's name. `quiet`: remarks, warnings and progress stay away from stderr."""

    context: str | None = None
    quiet: bool = False


chosen = Chosen()


def choose(context: str | None, quiet: bool, verbose: bool) -> None:
    """Takes the options that stand before the command's name: of this run alone."""
    chosen.context, chosen.quiet = context, quiet
    log = logging.getLogger("fedgalore.client")
    log.handlers = [logging.StreamHandler(sys.stderr)] if verbose else []
    log.setLevel(logging.DEBUG if verbose else logging.NOTSET)


def connect(url: str | None) -> Client:
    """The coordinator that a command talks to.

    Raises:
        WrongArgument
    """
    from fedgalore.client import Client

    return Client(url, context=chosen.context)
