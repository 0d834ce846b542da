"""`fedgalore simulate`: a whole federation in one process."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import typer

from fedgalore.spec.start import PREFIX
from fedgalore_cli import partition as parts
from fedgalore_cli import sweep
from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output
from fedgalore_cli.partition_split import Splitting, columns_of
from fedgalore_cli.show.console import console
from fedgalore_cli.simulate_federation import Federation, failure
from fedgalore_cli.simulate_records import Records
from fedgalore_cli.tracking import Experiment, RunsFolder, Tracker, sinks
from fedgalore_cli.words import heading, listed, value

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.records import RoundRecord
    from fedgalore.simulation import Site
    from fedgalore.spec.job import JobSpec

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job document, YAML or JSON", show_default=False)]
MOST_TOLD = 4  # metrics of a client in one line
WITH_AGENTS = {
    "job",
    "agents",
    "picture",
    "to",
    "version",
    "threads",
    "output",
    "allowed",
    "sweeps",
    "seeds",
    "metric",
    "trackers",
    "experiment",
    "runs",
}  # all other options are about splitting


def simulate(
    context: typer.Context,
    job: JobFile,
    agents: Annotated[
        list[Path] | None, typer.Option("--agent", help="Config of an agent whose data to use; once for each client")
    ] = None,
    clients: parts.Clients = 4,
    train: parts.Train = None,
    test: parts.Test = None,
    split: parts.Split = None,
    alpha: parts.Alpha = None,
    domain: parts.Domain = None,
    least: parts.Least = 1,
    split_seed: parts.Seed = 0,
    text: parts.Text = None,
    label: parts.Label = "label",
    prompt: parts.Prompt = None,
    completion: parts.Completion = None,
    tokens: parts.Tokens = None,
    tags: parts.Tags = None,
    messages: parts.Messages = None,
    column: parts.Column = None,
    picture: parts.Picture = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for the fine-tuned model")] = None,
    version: Annotated[
        Literal["best", "last"] | None,
        typer.Option("--version", help="Which one --to holds. Default: the best if the job keeps one, else the last."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="torch's CPU threads; default: what fits the machine")
    ] = None,
    allowed: Annotated[
        list[str] | None,
        typer.Option("--allow-metric", help="A metric of another package that the job names, package.module:NAME"),
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="FIELD=VALUE,VALUE",
            help="Run the job with each of these values of a field, such as method.rank=4,8. Can be given again: with "
            "all combinations. --to is then the folder of the runs, by default sweep-NAME.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Run each setting with so many seeds, from the job's own on.")
    ] = 1,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", help="What settings are compared by. Default: evaluation.keep.metric of the job, or accuracy."
        ),
    ] = None,
    trackers: Annotated[
        list[Tracker] | None,
        typer.Option("--track", help="Log to this tracker as well. Can be given again: to all of them."),
    ] = None,
    experiment: Experiment = "fedgalore",
    runs: RunsFolder = Path("runs"),
    output: Output = Format.TABLE,
) -> None:
    """Run a job in this process alone: no coordinator, no agents, the same mathematics.

    Data comes either from agents' own configs (--agent, once for each), or from a data set that is split (--train,
    --clients, --split). With the agents' data, seed and machine of a distributed run the final weights are the same,
    bit for bit. Each agent is tested on its own test data; the clients of a split data set are all tested on --test, or
    on their own domain's part of it. As JSON, each record is an object a line; the lines for people go to stderr.

    With --sweep or --seeds the job is run many times on the same split: a table of mean and spread over seeds, and a
    picture. The same command goes on where it was stopped; a run that fails is named, and the others go on.
    """
    from fedgalore.data.examples import DataError
    from fedgalore.measures.custom import allow
    from fedgalore.spec import job as job_spec
    from fedgalore.tracking import TrackerError

    records = Records(output)
    try:
        allow(allowed or ())
        spec = job_spec.load(job)
        if spec.model.source.startswith(PREFIX):
            raise ValueError(
                f"model.source: {spec.model.source} is at a coordinator; download that version, and name its folder"
            )
        if version == "best" and spec.evaluation.keep is None:
            raise ValueError("--version: the job keeps no best version; set evaluation.keep in it, or say last")
        many = sweep.Sweep.planned(spec, sweeps or (), seeds, metric) if sweeps or seeds > 1 else None
        _check_options(many is not None, metric, version)
        sinks(trackers or (), experiment, runs)  # those of each run are made when it begins
        parts.check_picture(picture)
        held_out: Sequence[Example] = ()
        if agents:
            _refuse_splitting(context)
            sites = _sites_of_agents(agents, spec.data.name)
            by = "label" if all("label" in site.train[0] for site in sites) else None
            title = f"{spec.data.name} at {len(sites)} agents"
        else:
            if train is None:
                raise ValueError(
                    "--train: there is no data; name a file with training examples, or agents' configs by --agent"
                )
            if clients < spec.rounds.min_clients:
                raise ValueError(
                    f"--clients: {clients} is less than the job's rounds.min_clients, {spec.rounds.min_clients}; "
                    "raise --clients, or lower rounds.min_clients"
                )
            columns = columns_of(
                text, label, column, prompt=prompt, completion=completion, tokens=tokens, tags=tags, messages=messages
            )
            splitting = Splitting.of(split, clients, alpha, domain, least, split_seed, columns)
            sites, held_out = splitting.sites(train, test, columns)
            by, title = splitting.by, splitting.title(train)
        if picture is not None:
            parts.draw(picture, sites, by, title)
        if many is not None:
            to = to or Path(f"sweep-{spec.name}")
        if to is not None:
            _make(to)
    except (job_spec.SpecError, DataError, TrackerError, ValueError) as error:
        fail(str(error))
    tests = {"test": held_out} if held_out else {}
    federation = Federation(sites, tests, {"test": f"--test {test}"}, threads, trackers or (), experiment, runs)
    if many is not None and to is not None:
        many.run(federation, to, output)
    else:
        _run(spec, federation, to, version, records)


def _check_options(many: bool, metric: str | None, version: str | None) -> None:
    if many and version is not None:
        raise ValueError("--version: a sweep keeps no models; leave --version out")
    if not many and metric is not None:
        raise ValueError("--metric: there are no settings to compare; give some by --sweep or --seeds, or leave it out")


def _refuse_splitting(context: typer.Context) -> None:
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in WITH_AGENTS and source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0]
            raise ValueError(f"{option}: the data of --agent are split already; leave {option} or --agent out")


def _make(folder: Path) -> None:
    """The folder for the model, before hours are spent on what could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--to: {folder} cannot be made ({error.strerror}); name another folder") from error


def _run(
    spec: JobSpec,
    federation: Federation,
    to: Path | None,
    version: str | None,
    records: Records,
) -> None:
    from fedgalore.best import describe
    from fedgalore.model.load_back import answers, difference
    from fedgalore.model.remarks import remarks

    out = console(stderr=records.wanted)

    def tell(record: RoundRecord) -> None:
        records.round(record)
        out.print(line(record))

    records.begin(spec, federation.sites, federation.tests)
    try:
        with federation.tracking(spec, spec.name, uuid4().hex[:12]) as tracking:
            result = federation.play(spec, tracking, tell)
            for sentence in without_value(result.rounds[-1]):
                out.print(sentence)
            out.print(result.task.plan.census.summary())
            if words := result.no_best or describe(result.best, {}, spec):
                out.print(words)
            for note in remarks(result.task):
                console(stderr=True).print(note)
            written = result.rounds[-1].model_version
            if to is not None:
                if version != "last" and result.best is not None and result.best_weights is not None:
                    result.task.load_weights(result.best_weights)
                    written = result.best.version
                result.task.save(to)
                if differs := difference(to, answers(result.task)):
                    raise ValueError(f"{to} was written and loaded back, and {differs}")
                out.print(f"model: {to} (version {written})")
                tracking.model(written, lambda: to)
    except Exception as error:  # whatever the code of a model or a tokenizer comes upon
        logging.getLogger(__name__).debug("the simulation failed", exc_info=True)
        fail(failure(error, spec))
    records.end(result, to, written)


def line(record: RoundRecord) -> str:
    """A round in one line: metrics of the model that it started from, and the mean loss in training."""
    cells = [f"version {record.model_version:>3}"]
    together = {"all": record.pooled.metrics} if record.evaluation else {}
    held_out = {name: each.metrics for name, each in record.held_out.items()}
    parts = {**held_out, **together, **record.evaluation}
    cells += [f"{name} {_in_short(metrics)}" for name, metrics in parts.items()]
    if record.training:
        losses = [metrics["train_loss"] for metrics in record.training.values()]
        cells.append(f"train loss {sum(losses) / len(losses):.3f}")
    return "  ".join(cells)


def without_value(record: RoundRecord) -> list[str]:
    """Why metrics of a round's model have no value, a sentence for each."""
    told = {**{f" of {name}": each for name, each in record.held_out.items()}, "": record.pooled}
    return [f"no {name}{of}: {why}" for of, each in told.items() for name, why in each.undefined.items()]


def _in_short(metrics: Mapping[str, float]) -> str:
    """The accuracy alone, or the first metrics that there are, with their names."""
    names = [name for name in listed(metrics) if name != "loss"]
    told = [value(name, metrics) if name == "accuracy" else f"{heading(name)} {value(name, metrics)}" for name in names]
    return " ".join(told[:MOST_TOLD])


def _sites_of_agents(configs: list[Path], dataset: str) -> list[Site]:
    from client_agent.data import read_all
    from client_agent.settings import load
    from fedgalore.measures.custom import allow
    from fedgalore.process.settings import SettingsError
    from fedgalore.simulation import Site

    sites = []
    for config in configs:
        try:
            settings = load(config)
        except SettingsError as error:
            raise ValueError(f"{config}: {error}") from error
        if dataset not in settings.data:
            raise ValueError(
                f"{config}: data: there is no data set {dataset!r}, which the job's data.name asks for; add it"
            )
        allow(settings.metrics)
        local = read_all({dataset: settings.data[dataset]})[dataset]
        train, test = local.train, local.test
        sites.append(
            Site(
                settings.name,
                train.examples,
                test.examples if test else (),
                train_place=str(train.path),
                test_place=str(test.path if test else "test"),
            )
        )
    return sites
