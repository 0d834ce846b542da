"""`fedgalore keys`: API keys of the REST door."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from fedgalore_cli import secret_file
from fedgalore_cli.client import DEFAULT_URL, AsJson, Coordinator, Url

app = typer.Typer(help="Make, list and revoke API keys; needs an operator's key.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    role: Annotated[str, typer.Option(help="viewer: reads everything; operator: changes things as well.")] = "viewer",
    out: secret_file.Out = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Make an API key. Commands take it from FEDGALORE_API_KEY or FEDGALORE_API_KEY_FILE."""
    with Coordinator(url) as coordinator, secret_file.teller(out) as tell:
        key = coordinator.ask("POST", "/api/v1/keys", json={"name": name, "role": role})
        tell(key["key"], f"key {key['id']} of {name}, {role}")


@app.command("list")
def list_keys(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List API keys, without their secrets."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", "/api/v1/keys")
    show.listing(
        answer,
        "keys",
        show.keys,
        "there are no keys but the operator's own: make a key with `fedgalore keys create NAME`",
        as_json,
    )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `list` shows it.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Make an API key void, from its next request on."""
    with Coordinator(url) as coordinator:
        coordinator.ask("DELETE", f"/api/v1/keys/{quote(key, safe='')}")
    typer.echo(f"key {key} is revoked")
