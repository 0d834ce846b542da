"""Commands that run a part of the federation in the foreground: `coordinator`, `aggregator`, `agent`; and the command
of an operator beside a coordinator, `accept-state`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.exits import Exit
from fedgalore_cli.options import Format, Output
from fedgalore_cli.output import put

if TYPE_CHECKING:
    from coordinator.settings import CoordinatorSettings
    from coordinator.store import acceptance

PANEL = "Run the parts"
Config = Annotated[
    Path | None, typer.Option(help="YAML file of settings. Flags and FEDGALORE_* variables override it.")
]
RedisUrl = Annotated[
    str | None, typer.Option(help="State store, Redis 7 or Valkey [FEDGALORE_REDIS_URL, FEDGALORE_REDIS_URL_FILE].")
]
BlobDir = Annotated[Path | None, typer.Option(help="Directory of weights and updates [FEDGALORE_BLOB_DIR].")]
Blobs = Annotated[
    str | None, typer.Option(help="Bucket of weights and updates, such as s3://bucket/prefix [FEDGALORE_BLOBS].")
]
Threads = Annotated[
    str | None, typer.Option(help="CPU threads of the aggregator, a number or auto [FEDGALORE_THREADS].")
]
LogFormat = Annotated[str | None, typer.Option(help="auto, json or text [FEDGALORE_LOG_FORMAT].")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error [FEDGALORE_LOG_LEVEL].")]


def add_to(app: typer.Typer) -> None:
    """Puts the commands of this module into the app."""
    app.command(rich_help_panel=PANEL)(coordinator)
    app.command(rich_help_panel=PANEL)(aggregator)
    app.command("accept-state", rich_help_panel=PANEL)(accept_state)
    # The agent's own parser knows its flags, --help included; listing them here would import it for every command.
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(rich_help_panel=PANEL, context_settings=passed_on)(agent)


def coordinator(
    config: Config = None,
    redis_url: RedisUrl = None,
    blob_dir: BlobDir = None,
    blobs: Blobs = None,
    rest_host: Annotated[str | None, typer.Option(help="Address of the REST door [FEDGALORE_REST_HOST].")] = None,
    rest_port: Annotated[
        int | None, typer.Option(help="Port of the REST door; 0: any free port [FEDGALORE_REST_PORT].")
    ] = None,
    grpc_host: Annotated[str | None, typer.Option(help="Address of the agents' door [FEDGALORE_GRPC_HOST].")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the agents' door; 0: any free port [FEDGALORE_GRPC_PORT].")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain of both doors, PEM [FEDGALORE_TLS_CERT].")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate, PEM [FEDGALORE_TLS_KEY].")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="CA of the certificates that agents have to show [FEDGALORE_CLIENT_CA].")
    ] = None,
    mutual_tls: Annotated[
        bool | None,
        typer.Option("--mutual-tls/--no-mutual-tls", help="Whether a door open to the network needs --client-ca."),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Plaintext and no credentials, also beyond this machine.")
    ] = None,
    port_file: Annotated[
        Path | None, typer.Option(help="File to write the ports to, as JSON, when ready [FEDGALORE_PORT_FILE].")
    ] = None,
    aggregator: Annotated[
        bool | None,
        typer.Option("--aggregator/--no-aggregator", help="Whether to run the aggregator as a child process."),
    ] = None,
    threads: Threads = None,
    presence_s: Annotated[
        float | None, typer.Option(help="Seconds a silent agent counts as present [FEDGALORE_PRESENCE_S].")
    ] = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Run the coordinator: REST for people, gRPC for agents, and the aggregator beside it.

    Listens on 127.0.0.1:8080 and 127.0.0.1:50051 by default. Needs a Redis server (7 or newer) with its append-only
    file on. Beyond this machine it needs a certificate, which `fedgalore certs` makes, and an operator's key. The key
    has no flag: it comes from FEDGALORE_OPERATOR_KEY or FEDGALORE_OPERATOR_KEY_FILE.
    """
    flags = dict(locals())
    settings = _settings(flags.pop("config"), flags)
    from coordinator import server

    try:
        server.run(settings)
    except server.CoordinatorError as error:
        fail(str(error))


def aggregator(
    config: Config = None,
    redis_url: RedisUrl = None,
    blob_dir: BlobDir = None,
    blobs: Blobs = None,
    threads: Threads = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Run an aggregator by itself, for a coordinator started with --no-aggregator.

    Shares the coordinator's Redis and blob directory. Uses a CUDA device if there is any.
    """
    flags = dict(locals())
    settings = _settings(flags.pop("config"), flags)
    import asyncio

    from coordinator.aggregator.process import serve
    from fedgalore.process import logs
    from fedgalore.process.settings import SettingsError

    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(serve(settings))
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(Exit.WRONG_CALL) from None


def accept_state(
    config: Config = None,
    redis_url: RedisUrl = None,
    blob_dir: BlobDir = None,
    blobs: Blobs = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take it; else it is only shown.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Take Redis and the blob directory as they are, after a restored backup or a loss of keys.

    Shows what does not fit. With --yes, this Redis counts as that of the blobs, jobs that the lists of jobs lack are
    entered again, and blobs that no job names are deleted an hour later; it is refused while the record of a job
    cannot be read. Give it the settings of the coordinator.
    """
    settings = _settings(config, {"redis_url": redis_url, "blob_dir": blob_dir, "blobs": blobs})
    import asyncio

    from coordinator.state.errors import StateUnavailable
    from coordinator.store import acceptance
    from coordinator.store.opened import open_blobs
    from coordinator.store.redis_state_store import RedisStateStore

    async def found() -> acceptance.Findings:
        store = RedisStateStore(settings.redis_url)
        try:
            blobs = open_blobs(settings.blob_dir, settings.blobs, settings.blob_cache_bytes)
            return await (acceptance.accept(store, blobs) if yes else acceptance.look(store, blobs))
        finally:
            await store.close()

    try:
        findings = asyncio.run(found())
    except (StateUnavailable, OSError, acceptance.NotAccepted) as error:
        fail(str(error))
    unneeded = findings.held.unneeded
    document = {
        "accepted": yes,
        "not_bound": findings.not_bound or None,
        "contradictions": list(findings.contradictions),
        "unneeded_blobs": len(unneeded),
        "unneeded_bytes": sum(unneeded.values()),
        "all_bytes": findings.held.all_bytes,
    }
    put(output, document, lambda: _show(findings, yes))


def _show(findings: acceptance.Findings, accepted: bool) -> None:
    for line in filter(None, (findings.not_bound, *findings.contradictions)):
        typer.echo(f"- {line}")
    unneeded = findings.held.unneeded
    typer.echo(
        f"No job names {len(unneeded)} blobs with {sum(unneeded.values())} of {findings.held.all_bytes} bytes"
        + ("; they are deleted in an hour." if accepted else ".")
    )
    typer.echo("Taken as it is." if accepted else "Nothing is changed; --yes takes it as it is.")


def agent(context: typer.Context) -> None:
    """Run one client's agent: train on this site's data whenever the coordinator asks."""
    from client_agent.__main__ import agent as run

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    app(context.args, prog_name="fedgalore agent")


def _settings(config: Path | None, flags: dict[str, Any]) -> CoordinatorSettings:
    from coordinator.settings import load
    from fedgalore.process.settings import SettingsError

    try:
        return load(config, flags)
    except SettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(Exit.WRONG_CALL) from None
