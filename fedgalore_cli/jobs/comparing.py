"""`fedgalore jobs compare`: what jobs differ in, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output, Url, connect
from fedgalore_cli.output import put

if TYPE_CHECKING:
    from fedgalore.client import Client

MOST = 8
NO_DIFFERENCE = ("name",)  # of documents: what is no setting


def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help=f"Two to {MOST} ids of jobs.")],
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what jobs differ in, field by field, and what came of it: metrics, bytes and seconds of their rounds."""
    if not 2 <= len(jobs) <= MOST or len(set(jobs)) < len(jobs):
        fail(f"JOB: {len(jobs)} ids do not compare; give two to {MOST} different ones")
    with connect(url) as client:
        found = {job: _of(client, job) for job in jobs}
    specs = {job: dict(_fields(each["spec"])) for job, each in found.items()}
    names = list(dict.fromkeys(name for fields in specs.values() for name in fields))
    differs = {
        name: {job: specs[job].get(name) for job in jobs}
        for name in names
        if name not in NO_DIFFERENCE and len({repr(specs[job].get(name)) for job in jobs}) > 1
    }
    results = {name: {job: found[job]["results"].get(name) for job in jobs} for name in _union(found)}
    put(output, {"jobs": jobs, "differences": differs, "results": results}, lambda: _show(jobs, differs, results))


def _of(client: Client, job_id: str) -> dict[str, Any]:
    """A job's document, and what came of it."""
    job, rounds = client.job(job_id), client.rounds(job_id)
    results: dict[str, Any] = {"name": job.name, "status": job.status, "method": job.method}
    results["model version"] = job.model_version
    for told, measured in (("", job.evaluation), (" (held out)", job.held_out)):
        results |= {f"{name}{told}": value for name, value in sorted((measured.metrics if measured else {}).items())}
    if job.best is not None:
        results[f"best {job.best.metric}"] = job.best.value
    results |= {"received_bytes": job.up_bytes, "sent_bytes": job.down_bytes}
    results["seconds"] = round(sum(sum(each.phase_s.values()) for each in rounds), 1)  # in rounds that have ended
    return {"spec": job.spec, "results": results}


def _fields(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a document by their paths; a list is one value."""
    if isinstance(document, Mapping) and document:
        for key, value in document.items():
            yield from _fields(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, document


def _union(found: Mapping[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in found.values() for name in each["results"]))


def _show(jobs: Sequence[str], differs: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """A row for each field with a column for each job; or where there is no room, a row for each field of each job."""
    from fedgalore_cli.show.console import console, fits, table, whole

    out = console()
    for title, rows in (("results", results), ("differences", differs)):
        wide = table(title, *jobs)
        for name, values in rows.items():
            wide.add_row(name.removesuffix("_bytes"), *(_cell(name, values[job]) for job in jobs))
        if not fits(wide):
            wide = table(title, "job", "value")
            for name, values in rows.items():
                for job in jobs:
                    wide.add_row(name.removesuffix("_bytes"), job, _cell(name, values[job]))
        out.print(whole(wide))
        if title == "results":
            out.print()
    if not differs:
        out.print("the documents are equal")


def _cell(name: str, value: Any) -> str:
    from fedgalore.spec.amounts import size
    from fedgalore_cli.words import number

    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if name != "seconds" and isinstance(value, float) and abs(value) >= 1e-4:
        return number(value)
    return "-" if value is None else str(value)
