"""`fedgalore agents`: who is enrolled, who may enrol, who is thrown out."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from fedgalore_cli import secret_file
from fedgalore_cli.client import DEFAULT_URL, AsJson, Coordinator, Url

DAY_S = 86400
Client = Annotated[str, typer.Argument(metavar="NAME", help="The client's name, as in its agent's config.")]

app = typer.Typer(help="See, invite and revoke clients.", no_args_is_help=True)


@app.command("list")
def list_agents(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List all agents: whether they are present, what data they offer, what they do."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", "/api/v1/agents")
    show.listing(
        answer,
        "agents",
        show.agents,
        "there are no agents yet: start an agent with `fedgalore agent --config agent.yaml`",
        as_json,
    )


@app.command()
def invite(
    name: Client,
    valid_days: Annotated[float, typer.Option(help="Days that the token is good for.", min=0.01)] = 7,
    out: secret_file.Out = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Make a join token: the agent of this name can enrol once with it, and brings its own key.

    Give the token to the agent as FEDGALORE_AGENT_JOIN_TOKEN_FILE. If the client is enrolled already, the new agent's
    key takes the place of the old key.
    """
    with Coordinator(url) as coordinator, secret_file.teller(out) as tell:
        token = coordinator.ask("POST", "/api/v1/join-tokens", json={"client": name, "valid_s": valid_days * DAY_S})
        tell(token["token"], f"join token {token['id']} for {name}, good until {token['expires']}")


@app.command()
def tokens(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List join tokens, without their secrets."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", "/api/v1/join-tokens")
    show.listing(
        answer,
        "join_tokens",
        show.join_tokens,
        "there are no join tokens: make a token with `fedgalore agents invite NAME`",
        as_json,
    )


@app.command()
def revoke(name: Client, url: Url = DEFAULT_URL) -> None:
    """Throw a client out: its key and tokens become void, and its open tasks are given up."""
    with Coordinator(url) as coordinator:
        coordinator.ask("DELETE", f"/api/v1/agents/{quote(name, safe='')}")
    typer.echo(f"{name} is revoked")


@app.command("revoke-token")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="Id of the token, as `tokens` shows it.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Make a join token void. A client that has enrolled with it stays; `revoke` throws it out."""
    with Coordinator(url) as coordinator:
        coordinator.ask("DELETE", f"/api/v1/join-tokens/{quote(token, safe='')}")
    typer.echo(f"token {token} is revoked")
