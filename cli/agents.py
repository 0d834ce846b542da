"""`fedgalore agents`: who is enrolled."""

from __future__ import annotations

import typer

from cli.client import DEFAULT_URL, AsJson, Coordinator, Url

app = typer.Typer(help="See the clients that are enrolled.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """See the clients that are enrolled."""


@app.command("list")
def list_agents(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List all agents: whether they are present, what data they offer, what they do."""
    from cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", "/api/v1/agents")
    if as_json:
        show.as_json(answer)
    elif answer["agents"]:
        show.agents(answer["agents"])
    else:
        typer.echo("no agents yet: start one with `fedgalore agent --config agent.yaml`", err=True)
