"""How a command ends that cannot go on: a line on stderr, and with `--output json` a record on stdout as well."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperGroup

from fedgalore_cli.exits import Exit, of_error

if TYPE_CHECKING:
    from fedgalore.client import ClientError

_ARGUMENTS = "fedgalore.arguments"
_OURS = ("fedgalore", "fedgalore_cli", "coordinator", "client_agent", "protos", "None")
_UsageError: Any = typer.BadParameter.mro()[1]  # of every wrong call; typer has no public name for it
_OPTIONS = {  # what the client's arguments are called here
    "url": "--url (FEDGALORE_URL)",
    "context": "--context (FEDGALORE_CONTEXT)",
    "job": "JOB",
    "document": "FILE",
    "name": "NAME",
    "key": "ID",
    "idempotency": "--key",
    "token": "ID",
    "to": "--to",
    "timeout_s": "--timeout",
}


class Failed(typer.Exit):
    """The command cannot go on; `problem` stands on stderr."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(status)
        self.problem = problem


def fail(message: str, status: Exit = Exit.FAILED) -> NoReturn:
    """Ends the command with one line on stderr and this exit status."""
    problem = " ".join(message.split())
    typer.echo(f"error: {problem}", err=True)
    raise Failed(problem, status)


def stop(message: str) -> NoReturn:
    """Ends the command as one that Ctrl-C has stopped."""
    typer.echo(message, err=True)
    raise typer.Exit(Exit.INTERRUPTED)


class Commands(TyperGroup):
    """All commands. Errors of the client end here, too.

    With `--output json`, an error is `{"type": "error", "problem": ...}` on stdout: of a wrong call, too.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return _translated(super().invoke, ctx)
        except (Failed, _UsageError) as error:
            _reword(error)
            if _wants_json(ctx.meta[_ARGUMENTS]):
                problem = error.problem if isinstance(error, Failed) else " ".join(error.format_message().split())
                typer.echo(json.dumps({"type": "error", "problem": problem}))
            raise


def told(error: ClientError) -> str:
    """An error of the client as a line of a command, with its options for the client's arguments."""
    from fedgalore.client import Refused, TimedOut, Unreachable, WrongArgument

    words = str(error)
    for row in error.fields if isinstance(error, WrongArgument | TimedOut) else ():
        words = words.replace(f"{row.field}: ", f"{_OPTIONS.get(row.field, row.field)}: ", 1)
    if error.code == "no_coordinator":
        words = words.replace("url: ", f"{_OPTIONS['url']}: ", 1)
    elif isinstance(error, Refused) or (isinstance(error, Unreachable) and error.code != "unreachable"):
        words = f"{words} [{error.code}]"
    return words


def _translated(invoke: Callable[[Any], Any], ctx: Any) -> Any:
    """Ends the command where the client could not go on, or an extra is missing: the command line alone needs none.

    Until the command imports it, nothing of the client is there.
    """
    try:
        return invoke(ctx)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _OURS:
            raise
        fail(f"this command needs {error.name}, which is not installed; run: pip install 'fedgalore[all]'")
    except Exception as error:
        client = sys.modules.get("fedgalore.client")
        if client is None or not isinstance(error, client.ClientError):
            raise
        fail(told(error), of_error(error))


def _wants_json(arguments: list[str]) -> bool:
    given = " ".join(arguments).replace("--output=", "--output ")
    return any(form in given for form in ("--output json", "-o json", "-ojson"))


def _reword(error: Any) -> None:
    """Says of an option's value what it is and what the option takes, as of every field of a document."""
    from pydantic import TypeAdapter, ValidationError

    from fedgalore.spec.findings import rows

    descriptor = getattr(getattr(error, "param", None), "type_descriptor", None)
    if descriptor is None or not isinstance(error.__cause__, ValidationError):
        return
    limits = {"minimum": error.param.min, "maximum": error.param.max}
    schema = TypeAdapter(descriptor.annotation).json_schema()
    schema |= {name: limit for name, limit in limits.items() if limit is not None}
    error.message = rows(error.__cause__.errors(), schema)[0]["problem"]
