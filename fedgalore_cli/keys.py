"""`fedgalore keys`: API keys of the REST door."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fedgalore_cli import secret_file
from fedgalore_cli.options import Format, Output, Url, connect
from fedgalore_cli.output import listing, put

app = typer.Typer(help="Make, list and revoke API keys; needs an operator's key.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    role: Annotated[
        Literal["viewer", "operator"],
        typer.Option(help="viewer: reads everything; operator: changes things as well."),
    ] = "viewer",
    team: Annotated[
        str | None, typer.Option(help="The team in which alone the key is good; without one: in all.")
    ] = None,
    out: secret_file.Out = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Make an API key. Commands take it from FEDGALORE_API_KEY or FEDGALORE_API_KEY_FILE."""
    with connect(url) as client, secret_file.teller(out, output) as tell:
        key = client.create_api_key(name, role, team=team)
        where = f" in team {team}" if team else ""
        tell(key.key, f"key {key.id} of {name}, {role}{where}", key.document(), "key")


@app.command("list")
def list_keys(url: Url = None, output: Output = Format.TABLE) -> None:
    """List API keys, without their secrets."""
    from fedgalore_cli.show import lists

    with connect(url) as client:
        rows = [key.document() for key in client.api_keys()]
    nothing = "there are no keys but the operator's own: make a key with `fedgalore keys create NAME`"
    listing(output, "keys", rows, lambda: lists.keys(rows), nothing)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `list` shows it.")],
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Make an API key void, from its next request on."""
    with connect(url) as client:
        client.revoke_api_key(key)
    put(output, {"revoked": key}, f"key {key} is revoked")
