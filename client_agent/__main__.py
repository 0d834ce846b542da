"""`python -m client_agent --config agent.yaml`; `fedgalore agent` is the same command.

Exit codes: 0 stopped on request, 1 a job that was checked does not fit, or the log is not whole, 2 settings, data or a
work folder that cannot be used, 3 refused by the coordinator.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from client_agent import settings
from client_agent.agent import Agent
from client_agent.cache import Cache, claimed
from client_agent.credential import Line, line
from client_agent.data import LocalData, read_all
from client_agent.errors import AgentError, WorkDirUnusable
from client_agent.instance import instance_of
from client_agent.room import wait_for_room
from client_agent.settings import AgentSettings
from client_agent.show_log import shown
from client_agent.site_log import FILE, SiteLog
from client_agent.task_document import job_of
from client_agent.transport import Transport
from fedgalore.data.examples import DataError
from fedgalore.measures.custom import CustomMetricError, allow
from fedgalore.process import faults, logs
from fedgalore.process.leaving import end_at_once, end_within
from fedgalore.process.metrics_page import served
from fedgalore.process.settings import SettingsError
from fedgalore.spec.job import JobSpec, SpecError, load

PATIENCE_S = 10.0  # with a coordinator that is asked for a job
_ID = re.compile(r"job-[0-9a-f]+-\w+", re.ASCII)


def agent(
    config: Annotated[Path | None, typer.Option(help="YAML file with the agent's settings.")] = None,
    name: Annotated[str | None, typer.Option(help="The client's name; unique in the federation.")] = None,
    coordinator: Annotated[str | None, typer.Option(help="host:port of its gRPC door, or several with commas.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Folder of this agent alone.", resolve_path=True)] = None,
    ca: Annotated[
        Path | None, typer.Option(help="CA of the coordinator's certificate, PEM; default: the system's.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="This client's certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Plaintext, also to a coordinator beyond this machine.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="CPU threads of torch, a number or auto.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or text.")] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="JOB",
            help="Say whether this job, a file or the id of one that the coordinator has, fits the site's policy, data "
            "and machine, and end.",
        ),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Print and check what jobs have done here, from the work folder, and end.")
    ] = False,
) -> None:
    """Run one client's agent: train on this site's data whenever the coordinator asks.

    Settings come from flags, then FEDGALORE_AGENT_* variables, then the config file. A join token comes from
    FEDGALORE_AGENT_JOIN_TOKEN or FEDGALORE_AGENT_JOIN_TOKEN_FILE; it is needed once, the agent's own key is kept in the
    work folder. With --check and --log the agent joins nothing and may be running elsewhere: status 0 says that the job
    fits and that the log is whole, 1 that it does not or is not.
    """
    flags = {
        "name": name,
        "coordinator": coordinator,
        "work_dir": work_dir,
        "ca": ca.absolute() if ca else None,
        "tls_cert": tls_cert.absolute() if tls_cert else None,
        "tls_key": tls_key.absolute() if tls_key else None,
        "insecure": insecure,
        "threads": threads,
        "device": device,
        "log_format": log_format,
    }
    with ExitStack() as stack:
        try:
            chosen = settings.load(config, flags)
            logs.configure(chosen.log_format, chosen.log_level, client=chosen.name)
            faults.arm(chosen.fault)
            if log:
                raise typer.Exit(_show_log(chosen))
            if check is not None:
                allow(chosen.metrics)
                raise typer.Exit(_check(chosen, check))
            way = stack.enter_context(_settled(chosen))
            data = read_all(chosen.data)
            allow(chosen.metrics)
        except (SettingsError, SpecError, DataError, WorkDirUnusable, CustomMetricError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except MemoryError:
            typer.echo("data: there is too little memory to read the site's data; give the agent more", err=True)
            raise typer.Exit(2) from None
        try:
            raise typer.Exit(asyncio.run(_serve(chosen, data, way)))
        except SettingsError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None


def _check(chosen: AgentSettings, job: str) -> int:
    from client_agent.job_check import check_job

    try:
        text, problems = check_job(chosen, read_all(chosen.data), _spec(chosen, job))
    except AgentError as error:
        typer.echo(str(error), err=True)
        return 1
    typer.echo(text)
    for problem in problems:
        typer.echo(f"\n{problem}", err=True)
    return int(bool(problems))


def _spec(chosen: AgentSettings, job: str) -> JobSpec:
    """Of a file; where there is none, of the job with this id at the coordinator, by the key in the work folder.

    Raises:
        SpecError, SettingsError
        AgentError: the coordinator does not give it, or does not answer.
    """
    if Path(job).exists() or not _ID.fullmatch(job):
        return load(Path(job))
    way = line(chosen.model_copy(update={"join_token": None, "join_token_file": None}))  # which joins nothing

    async def asked() -> str:
        transport = Transport(chosen.coordinator, chosen.name, PATIENCE_S, way)
        try:
            return await transport.job_document(job)
        finally:
            await transport.close()

    return job_of(asyncio.run(asked()))


def _show_log(chosen: AgentSettings) -> int:
    rows, problems = shown(chosen.work_dir)
    for row in rows:
        typer.echo(row)
    for problem in problems:
        typer.echo(f"{chosen.work_dir / FILE}: {problem}", err=True)
    return int(bool(problems))


@contextmanager
def _settled(chosen: AgentSettings) -> Iterator[Line]:
    """The work folder with all that an agent writes there before its first task; waits for room."""
    with ExitStack() as stack:
        ways: list[Line] = []

        def settle() -> None:
            with ExitStack() as claim:
                claim.enter_context(claimed(chosen.work_dir))
                Cache(chosen.work_dir)
                instance_of(chosen.work_dir)
                SiteLog(chosen.work_dir)
                ways.append(line(chosen))
                stack.push(claim.pop_all())

        wait_for_room(chosen.work_dir, settle)
        yield ways[-1]


async def _serve(chosen: AgentSettings, data: Mapping[str, LocalData], way: Line) -> int:
    client = Agent(chosen, data, way)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, client)
    with served(client.exported.registry, chosen.metrics_host, chosen.metrics_port, "metrics_port"):
        return await client.run()


def _stop(client: Agent) -> None:
    client.stop()
    end_within()  # a step may take longer: as after a kill, its round is trained again


def main() -> None:
    """Entry point of `python -m client_agent`."""
    end_at_once()
    typer.run(agent)


if __name__ == "__main__":
    main()
