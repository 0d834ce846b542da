"""`fedgalore size`: what a job on a model takes, from the model's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.mend import MendError, mended
from fedgalore_cli.options import Format, Output
from fedgalore_cli.output import put

if TYPE_CHECKING:
    from fedgalore.sizing import CoordinatorNeeds, Parts, SiteNeeds
    from fedgalore.spec.job import JobSpec
    from fedgalore.spec.plan import TrainingPlan

TITLE = ("site", "on a CPU", "on a GPU")


def size(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a model; its config.json is enough, weights are not read",
            show_default=False,
        ),
    ],
    clients: Annotated[int, typer.Option("--clients", min=1, help="Sites in a round")] = 4,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Rank of the method; default: the job's")] = None,
    job: Annotated[
        Path | None,
        typer.Option("--job", help="Job document whose settings to take. Default: a language model's, all defaults"),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Another value of a field of the job, such as local.batch_size=1"
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say what a job on a model takes: memory and disk of a site and of the coordinator, and bytes on the line.

    Shapes are exact; memory is foreseen by measured coefficients. docs/SIZING.md has the formulas, and works them for
    models of 1, 8 and 70 billion parameters.
    """
    from fedgalore.model.inputs import TaskError
    from fedgalore.model.skeleton import base_bytes, plan_of_folder
    from fedgalore.sizing import coordinator_needs, site_needs
    from fedgalore.spec.job import SpecError, parse

    try:
        spec = parse(_document(model, job, rank, assignments or []))
        if not (model / "config.json").is_file():
            fail(f"MODEL: {model} has no config.json; name the folder of a model")
        plan = plan_of_folder(spec, model)
        base = base_bytes(model, plan)
    except (SpecError, MendError, TaskError) as error:
        fail(str(error))
    sites = [site_needs(spec, plan, base, on_gpu=on_gpu) for on_gpu in (False, True)]
    coordinator = coordinator_needs(spec, plan, base, clients)
    shape = asdict(plan.shape) | {"trained": plan.trained_numbers}
    cpu, gpu = map(asdict, sites)
    found = {"model": shape, "clients": clients, "site": cpu, "gpu": gpu, "coordinator": asdict(coordinator)}
    put(output, found, "\n".join(report(spec, plan, sites, coordinator, clients)))


def _document(model: Path, job: Path | None, rank: int | None, assignments: list[str]) -> dict[str, Any]:
    from fedgalore.spec import job as job_spec

    document: dict[str, Any] = {"name": "size", "model": {"task": "causal-lm"}, "data": {"name": "texts"}}
    if job is not None:
        document = job_spec.load(job).model_dump(mode="json")
    document["model"]["source"] = str(model)
    full = job_spec.parse(document).model_dump(mode="json")
    ranks = [] if rank is None else [f"method.rank={rank}"]
    return mended(full, [*ranks, *assignments])


def report(
    spec: JobSpec, plan: TrainingPlan, sites: list[SiteNeeds], coordinator: CoordinatorNeeds, clients: int
) -> Iterator[str]:
    """The tables for people, of at most 80 columns."""
    from fedgalore.sizing import tokens_in_a_pass
    from fedgalore.spec.amounts import table

    local, rank = spec.local, getattr(spec.method, "rank", None)
    yield f"{_billions(plan.shape.parameters)} parameters, {_billions(plan.trained_numbers)} of them trained"
    yield f"{spec.method.kind}{f', rank {rank}' if rank else ''}, weights in {local.weights}"
    checkpointing = ", activation checkpointing" if local.activation_checkpointing else ""
    yield f"{tokens_in_a_pass(spec):,} tokens in a pass{checkpointing}"
    yield ""
    yield table(TITLE, _site_rows(*sites))
    yield ""
    yield table((f"coordinator, {clients} sites", ""), _coordinator_rows(coordinator))


def _site_rows(cpu: SiteNeeds, gpu: SiteNeeds) -> Iterator[tuple[str, str, str]]:
    yield from _pairs("memory of the host", cpu.host, gpu.host)
    yield from _pairs("memory of the GPU", cpu.device, gpu.device)
    yield from _pairs("disk of work_dir", cpu.disk, gpu.disk)
    for name, amount in (("down before round 1", cpu.download), ("down, a round", cpu.down), ("up, a round", cpu.up)):
        yield name, told(amount), told(amount)


def _coordinator_rows(needs: CoordinatorNeeds) -> Iterator[tuple[str, str]]:
    for name, parts in (("memory", needs.memory), ("disk", needs.disk)):
        yield name, told(sum(parts.values()))
        yield from ((f"  {part}", told(amount)) for part, amount in parts.items())
    yield "aggregation, two cores", f"{needs.seconds:,.0f} s"
    yield "down, a round, all sites", told(needs.down)
    yield "up, a round, all sites", told(needs.up)


def _pairs(name: str, first: Parts, second: Parts) -> Iterator[tuple[str, str, str]]:
    yield name, told(sum(first.values())), told(sum(second.values()))
    for part in dict.fromkeys([*first, *second]):
        yield f"  {part}", told(first.get(part, 0)), told(second.get(part, 0))


def told(n_bytes: int) -> str:
    from fedgalore.spec.amounts import size as words

    return words(n_bytes) if n_bytes else "-"


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.1f} million"
