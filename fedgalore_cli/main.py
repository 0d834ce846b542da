"""The `fedgalore` command.

A command imports by itself whatever takes long to import (torch, servers, HTTP), so that `fedgalore --help` answers at
once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fedgalore.process.leaving import end_at_once
from fedgalore_cli import (
    agents,
    certs,
    context,
    exits,
    jobs,
    keys,
    login,
    models,
    options,
    partition,
    serve,
    simulate,
    size,
)
from fedgalore_cli.demo import command as demo
from fedgalore_cli.doctor import command as doctors
from fedgalore_cli.errors import Commands
from fedgalore_cli.options import Format, Output
from fedgalore_cli.output import put

app = typer.Typer(
    name="fedgalore",
    cls=Commands,
    help="Federated fine-tuning of transformers: run the parts of a federation, and its jobs.",
    epilog=f"**Exit status**\n\n{exits.table()}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(agents.app, name="agents")
app.add_typer(keys.app, name="keys")
app.add_typer(context.app, name="context")
app.command()(login.login)
app.command()(login.logout)
serve.add_to(app)
app.command(rich_help_panel=serve.PANEL)(doctors.doctor)
app.command(rich_help_panel=serve.PANEL)(certs.certs)

TRY = "Try it out on one machine"
app.command(rich_help_panel=TRY)(demo.demo)
app.command(rich_help_panel=TRY)(simulate.simulate)
app.command(rich_help_panel=TRY)(partition.partition)
app.command(rich_help_panel=TRY)(size.size)


def _told() -> str:
    from fedgalore.version import PROTOCOL_VERSION, __version__

    return f"fedgalore {__version__} (protocol {PROTOCOL_VERSION})"


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(_told())
        raise typer.Exit


@app.callback()
def before(
    context: Annotated[
        str | None, typer.Option("--context", help="A coordinator by its name in the file of contexts.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No remarks, warnings or progress on stderr; errors alone.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line on stderr for each request to the coordinator.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    options.choose(context, quiet, verbose)


@app.command()
def version(output: Output = Format.TABLE) -> None:
    """Print the version of this software and of the protocol between coordinator and agents."""
    from fedgalore.version import PROTOCOL_VERSION, __version__

    put(output, {"version": __version__, "protocol_version": PROTOCOL_VERSION}, _told())


def main() -> None:
    """Entry point of the `fedgalore` command."""
    end_at_once()
    app()


if __name__ == "__main__":
    main()
