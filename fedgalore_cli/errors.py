"""How a command ends that cannot go on: a line on stderr, and with `--json` a record on stdout as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

_ARGUMENTS = "fedgalore.arguments"
_OURS = ("fedgalore", "fedgalore_cli", "coordinator", "client_agent", "protos", "None")
_UsageError: Any = typer.BadParameter.mro()[1]  # of every wrong call; typer has no public name for it


class Failed(typer.Exit):
    """The command cannot go on; `problem` stands on stderr."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(status)
        self.problem = problem


def fail(message: str, status: int = 1) -> NoReturn:
    """Ends the command with one line on stderr and this exit status."""
    problem = " ".join(message.split())
    typer.echo(f"error: {problem}", err=True)
    raise Failed(problem, status)


class Commands(TyperGroup):
    """All commands. With `--json`, an error is `{"type": "error", "problem": ...}` on stdout: of a wrong call, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return _with_extras(super().invoke, ctx)
        except (Failed, _UsageError) as error:
            _reword(error)
            if "--json" in ctx.meta[_ARGUMENTS]:
                problem = error.problem if isinstance(error, Failed) else " ".join(error.format_message().split())
                typer.echo(json.dumps({"type": "error", "problem": problem}))
            raise


def _with_extras(invoke: Callable[[Any], Any], ctx: Any) -> Any:
    """Of the extras of pyproject.toml, the command line alone needs none; other commands say what brings theirs."""
    try:
        return invoke(ctx)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _OURS:
            raise
        fail(f"this command needs {error.name}, which is not installed; run: pip install 'fedgalore[all]'")


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
