"""`fedgalore agents`: who is enrolled, who may enrol, who is thrown out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedgalore_cli import secret_file
from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output, Url, connect
from fedgalore_cli.output import listing, put

if TYPE_CHECKING:
    from fedgalore.client import Agent, Job
    from fedgalore.client.shapes import LiveParticipant

DAY_S = 86400
Client = Annotated[str, typer.Argument(metavar="NAME", help="The client's name, as in its agent's config.")]

app = typer.Typer(help="See, invite and revoke clients.", no_args_is_help=True)


@app.command("list")
def list_agents(url: Url = None, output: Output = Format.TABLE) -> None:
    """List all agents: whether they are present, what data they offer, what they do."""
    from fedgalore_cli.show import lists

    with connect(url) as client:
        rows = [agent.document() for agent in client.agents()]
    nothing = "there are no agents yet: start an agent with `fedgalore agent --config agent.yaml`"
    listing(output, "agents", rows, lambda: lists.agents(rows), nothing)


@app.command()
def describe(name: Client, url: Url = None, output: Output = Format.TABLE) -> None:
    """Show one agent: its data, its version, its last sign of life, and what it does for which job."""
    with connect(url) as client:
        found = next((agent for agent in client.agents() if agent.name == name), None)
        if found is None:
            fail(f"NAME: there is no agent {name!r}; `fedgalore agents list` shows those that there are")
        job = client.job(found.task.job) if found.task else None
    current = job.round if job else None
    part = current.participants.get(name) if current else None
    doing = {"job": job.name, "part": part.document() if part else None} if job else None
    document = found.document() | {"doing": doing}
    put(output, document, lambda: _show(found, job, part))


def _show(agent: Agent, job: Job | None, part: LiveParticipant | None) -> None:
    from fedgalore_cli.words import ago, number

    seen = ago(agent.last_seen.isoformat()) if agent.last_seen else "never"
    typer.echo(f"{agent.name} is {'present' if agent.present else 'not present'}, last seen {seen}")
    typer.echo(f"version {agent.software_version or '-'}, registered {agent.registered:%Y-%m-%d %H:%M} UTC")
    for data, examples in sorted(agent.datasets.items()):
        typer.echo(f"data {data}: {examples} training examples")
    if agent.task is None or job is None:
        typer.echo("has no task")
        return
    typer.echo(f"works for {job.name} ({agent.task.job}), round {agent.task.round}")
    if part is not None:
        step = f", step {part.step}" if part.step is not None else ""
        loss = f", train loss {number(part.train_loss)}" if part.train_loss is not None else ""
        typer.echo(f"{'reported' if part.reported else part.stage or 'waiting'}{step}{loss}")
        if part.failure:
            typer.echo(f"failed: {part.failure}")


@app.command()
def give(
    name: Client,
    team: Annotated[
        list[str] | None, typer.Option("--team", help="A team. Can be given again; none: to nobody.")
    ] = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a client to these teams, and to no others: their jobs ask it, and their people see it."""
    with connect(url) as client:
        agent = client.give(name, team or ())
    put(output, agent.document(), f"{name} is given to {', '.join(agent.teams) or 'no team'}")


@app.command()
def invite(
    name: Client,
    valid_days: Annotated[float, typer.Option(help="Days that the token is good for.", min=0.01)] = 7,
    out: secret_file.Out = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a join token: the agent of this name can enrol once with it, and brings its own key.

    Give the token to the agent as FEDGALORE_AGENT_JOIN_TOKEN_FILE. If the client is enrolled already, the new agent's
    key takes the place of the old key.
    """
    with connect(url) as client, secret_file.teller(out, output) as tell:
        token = client.invite(name, valid_s=valid_days * DAY_S)
        until = f"join token {token.id} for {name}, good until {token.expires.isoformat()}"
        tell(token.token, until, token.document(), "token")


@app.command()
def tokens(url: Url = None, output: Output = Format.TABLE) -> None:
    """List join tokens, without their secrets."""
    from fedgalore_cli.show import lists

    with connect(url) as client:
        rows = [token.document() for token in client.join_tokens()]
    nothing = "there are no join tokens: make a token with `fedgalore agents invite NAME`"
    listing(output, "join_tokens", rows, lambda: lists.join_tokens(rows), nothing)


@app.command()
def revoke(name: Client, url: Url = None, output: Output = Format.TABLE) -> None:
    """Throw a client out: its key and tokens become void, and its open tasks are given up."""
    with connect(url) as client:
        client.forget(name)
    put(output, {"revoked": name}, f"{name} is revoked")


@app.command("revoke-token")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="Id of the token, as `tokens` shows it.")],
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a join token void. A client that has enrolled with it stays; `revoke` throws it out."""
    with connect(url) as client:
        client.revoke_join_token(token)
    put(output, {"revoked": token}, f"token {token} is revoked")
