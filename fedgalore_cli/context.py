"""`fedgalore context`: coordinators by name, in a TOML file of which `fedgalore.client.contexts` is the form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output
from fedgalore_cli.output import listing, note, put

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the coordinator is called here.")]

app = typer.Typer(help="Name coordinators, and choose the one that commands talk to.", no_args_is_help=True)


@app.command("list")
def list_contexts(output: Output = Format.TABLE) -> None:
    """List the coordinators that have a name; the current one is the one that commands talk to."""
    from fedgalore.client import contexts
    from fedgalore_cli.show import lists

    found = contexts.read(contexts.place())
    rows = [
        {"name": name, "current": name == found.current, **each.model_dump(mode="json")}
        for name, each in found.contexts.items()
    ]
    nothing = "there are none yet: make one with `fedgalore context add NAME --at URL`"
    listing(output, "contexts", rows, lambda: lists.contexts(rows), nothing)


@app.command()
def add(
    name: Name,
    at: Annotated[str, typer.Option("--at", metavar="URL", help="Address of the coordinator's REST door.")],
    key_file: Annotated[Path | None, typer.Option(help="File that holds the API key.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The CA of its certificate, where the system does not know it.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Name a coordinator, or change what a name stands for. The first one is the current one."""
    from fedgalore.client import contexts
    from fedgalore.process.address import REST_PORT, check_url

    try:
        url = check_url(at, ("http", "https"), REST_PORT)
    except ValueError as error:
        fail(f"--at: {error}")
    for option, path in (("--key-file", key_file), ("--ca", ca)):
        if path is not None and not path.is_file():
            note(f"warning: {option}: there is no file {path} yet")
    file = contexts.place()
    found = contexts.read(file)
    made = contexts.Context(url=url, key_file=_absolute(key_file), ca=_absolute(ca))
    current = found.current or name
    contexts.write(file, contexts.Contexts(current=current, contexts={**found.contexts, name: made}))
    told = f"{name} is {url}" + ("" if current == name else f"; the current one is {current}")
    put(output, {"name": name, "current": current == name, **made.model_dump(mode="json")}, told)


@app.command()
def use(name: Name, output: Output = Format.TABLE) -> None:
    """Make this coordinator the one that commands talk to."""
    from fedgalore.client import contexts

    file = contexts.place()
    found = contexts.read(file)
    chosen = found.named(name)
    contexts.write(file, found.model_copy(update={"current": name}))
    put(output, {"name": name, "current": True, **chosen.model_dump(mode="json")}, f"{name} is current: {chosen.url}")


def _absolute(path: Path | None) -> Path | None:
    """A path of the command line is seen from the working directory, which is another one next time."""
    return None if path is None else path.expanduser().absolute()
