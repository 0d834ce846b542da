"""`fedgalore partition`: its options, most of which `fedgalore simulate` has as well, and who holds what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedgalore.process.address import check_target
from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output
from fedgalore_cli.output import put
from fedgalore_cli.partition_files import write_client
from fedgalore_cli.partition_split import DEFAULT_ALPHA, Kind, Splitting, columns_of, has_class, key_of
from fedgalore_cli.show.console import console
from fedgalore_cli.words import percent

if TYPE_CHECKING:
    from fedgalore.simulation import Site

Clients = Annotated[int, typer.Option("--clients", min=1, help="How many clients to split the data over")]
Train = Annotated[Path | None, typer.Option("--train", help="Training examples: a table, or a folder of tables")]
Test = Annotated[
    Path | None,
    typer.Option("--test", help="Held-out examples, the same for every client; by --split domain, of its own domain"),
]
Text = Annotated[
    list[str] | None, typer.Option("--text", help="Column with the text; twice for pairs  [default: text]")
]
Label = Annotated[str, typer.Option("--label", help="Column with the class")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="Column with the prompt (language models)")]
Completion = Annotated[str | None, typer.Option("--completion", help="Column with the answer (language models)")]
Tokens = Annotated[str | None, typer.Option("--tokens", help="Column with a text's words (token-classification)")]
Tags = Annotated[str | None, typer.Option("--tags", help="Column with the words' classes (token-classification)")]
Messages = Annotated[str | None, typer.Option("--messages", help="Column with a conversation (language models)")]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", help="Column that a job's template names, as NAME or NAME=COLUMN; once for each"),
]
Split = Annotated[
    Kind | None,
    typer.Option(
        "--split",
        help="How the clients differ: in classes (dirichlet), in size (quantity), in domain, or not at all (iid)  "
        "[default: dirichlet; quantity where there are no classes]",
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        "--alpha", help=f"Skew of dirichlet and quantity: 0.1 is severe, 100 is none  [default: {DEFAULT_ALPHA}]"
    ),
]
Domain = Annotated[str | None, typer.Option("--domain", help="Column with the domain, for --split domain")]
Least = Annotated[int, typer.Option("--least", min=1, help="Fewest training examples that a client gets")]
Seed = Annotated[int, typer.Option("--split-seed", min=0, help="Seed of the split, apart from the job's seed")]
Picture = Annotated[
    Path | None, typer.Option("--picture", help="Draw who holds what into this file: .png, .svg or .pdf")
]


def partition(
    train: Annotated[Path, typer.Option("--train", help="Training examples: a table, or a folder of tables")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the shards; must not exist yet")],
    dataset: Annotated[str, typer.Option("--name", help="Data set name that jobs will use")],
    test: Test = None,
    clients: Clients = 4,
    split: Split = None,
    alpha: Alpha = None,
    domain: Domain = None,
    least: Least = 1,
    split_seed: Seed = 0,
    text: Text = None,
    label: Label = "label",
    prompt: Prompt = None,
    completion: Completion = None,
    tokens: Tokens = None,
    tags: Tags = None,
    messages: Messages = None,
    column: Column = None,
    picture: Picture = None,
    coordinator: Annotated[str, typer.Option("--coordinator", help="Written into the configs")] = "127.0.0.1:50051",
    output: Output = Format.TABLE,
) -> None:
    """Split one data set into unlike shards, with an agent config for each: a federation to try things out on."""
    from fedgalore.data.examples import DataError

    if to.exists():
        fail(f"--to: {to} exists; name a new folder")
    try:
        check_target(coordinator)
    except ValueError as error:
        fail(f"--coordinator: {error}")
    try:
        columns = columns_of(
            text, label, column, prompt=prompt, completion=completion, tokens=tokens, tags=tags, messages=messages
        )
        splitting = Splitting.of(split, clients, alpha, domain, least, split_seed, columns)
        check_picture(picture)
        sites, held_out = splitting.sites(train, test, columns)
        if picture is not None:
            draw(picture, sites, splitting.by, splitting.title(train))
        for site in sites:
            write_client(to / site.name, {"train": site.train, "test": site.test or held_out}, dataset, coordinator)
    except (DataError, ValueError, OSError) as error:
        fail(str(error))
    clients_made = [
        {"name": site.name, "examples": len(site.train), "config": str(to / site.name / "agent.yaml")} for site in sites
    ]
    put(output, {"clients": clients_made}, lambda: _show(sites, splitting.by, to))


def check_picture(picture: Path | None) -> None:
    """Refuses a picture that cannot be drawn in its format, before there is something to draw.

    Raises:
        ValueError: names the option.
    """
    from fedgalore_cli.partition_picture import check_format

    if picture is not None:
        try:
            check_format(picture)
        except ValueError as error:
            raise ValueError(f"--picture: {error}") from error


def draw(picture: Path, sites: Sequence[Site], by: str | None, title: str) -> None:
    """Draws what each site holds; arguments as `Splitting` has them.

    Raises:
        ValueError: the file cannot be written; names the option.
    """
    from fedgalore_cli import partition_picture

    kind = "domain" if by == "domain" else "class"
    names = [site.name for site in sites]
    try:
        partition_picture.draw(picture, *_held(sites, by), title, kind=kind, clients=names)
    except OSError as error:
        raise ValueError(f"--picture: {picture} cannot be written ({error.strerror}); name another file") from error


def _held(sites: Sequence[Site], by: str | None) -> tuple[list[range], list[str] | None]:
    """Shards and keys, as `partition_picture` takes them; no keys where labels are no classes."""
    ends = list(accumulate((len(site.train) for site in sites), initial=0))
    shards = [range(*ends) for ends in pairwise(ends)]
    if by is None or (by == "label" and not all(has_class(example) for site in sites for example in site.train)):
        return shards, None
    return shards, [str(key_of(example, by)) for site in sites for example in site.train]


def _show(sites: Sequence[Site], by: str | None, to: Path) -> None:
    """Prints who holds what as a table, and where the configs are."""
    from fedgalore_cli.partition_picture import counts

    table = Table(box=None, header_style="bold", pad_edge=False)
    plural, kind = ("domains", "domain") if by == "domain" else ("classes", "class")
    shards, keys = _held(sites, by)
    for column in ("client", "examples", *([plural, f"largest {kind}", "share"] if keys else [])):
        right = column in ("examples", plural, "share")
        table.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    held = counts(shards, keys) if keys else []
    for number, site in enumerate(sites):
        cells = [site.name, str(len(site.train))]
        if held:
            largest, count = held[number].most_common(1)[0]
            cells += [str(len(held[number])), str(largest), percent(count / len(site.train))]
        table.add_row(*cells)
    console().print(table)
    typer.echo(f"shards and agents' configs: {to / '*' / 'agent.yaml'}")
