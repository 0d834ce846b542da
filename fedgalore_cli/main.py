"""The `fedgalore` command.

A command imports by itself whatever takes long to import (torch, servers, HTTP), so that `fedgalore --help` answers at
once.
"""

from __future__ import annotations

import typer

from fedgalore.process.leaving import end_at_once
from fedgalore_cli import agents, certs, jobs, keys, partition, serve, simulate, size
from fedgalore_cli.demo import command as demo
from fedgalore_cli.errors import Commands

app = typer.Typer(
    name="fedgalore",
    cls=Commands,
    help="Federated fine-tuning of transformers: run the parts of a federation, and its jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(agents.app, name="agents")
app.add_typer(keys.app, name="keys")
serve.add_to(app)
app.command(rich_help_panel=serve.PANEL)(certs.certs)

TRY = "Try it out on one machine"
app.command(rich_help_panel=TRY)(demo.demo)
app.command(rich_help_panel=TRY)(simulate.simulate)
app.command(rich_help_panel=TRY)(partition.partition)
app.command(rich_help_panel=TRY)(size.size)


@app.command()
def version() -> None:
    """Print the version of this software and of the protocol between coordinator and agents."""
    from fedgalore.version import PROTOCOL_VERSION, __version__

    typer.echo(f"fedgalore {__version__} (protocol {PROTOCOL_VERSION})")


def main() -> None:
    """Entry point of the `fedgalore` command."""
    end_at_once()
    app()


if __name__ == "__main__":
    main()
