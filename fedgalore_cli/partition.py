"""`fedgalore partition`, and the splitting of a data set, which `fedgalore simulate` uses as well."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from fedgalore.process.address import check_target
from fedgalore_cli.client import fail
from fedgalore_cli.partition_files import write_client
from fedgalore_cli.show import console, percent

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.simulation import Site

Kind = Literal["iid", "dirichlet", "quantity", "domain"]  # as in fedgalore.data.partition, which --help has no time for
DEFAULT_ALPHA = 0.1

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
    picture: Picture = None,
    coordinator: Annotated[str, typer.Option("--coordinator", help="Written into the configs")] = "127.0.0.1:50051",
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
            text, label, prompt=prompt, completion=completion, tokens=tokens, tags=tags, messages=messages
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
    _show(sites, splitting.by)
    typer.echo(f"shards and agents' configs: {to / '*' / 'agent.yaml'}")


@dataclass(frozen=True)
class Splitting:
    """The options of a split. `by`: the key that tells examples apart, "label" or "domain", or None."""

    kind: Kind
    clients: int
    alpha: float | None
    domain: str | None
    least: int
    seed: int
    by: str | None

    @classmethod
    def of(
        cls,
        kind: Kind | None,
        clients: int,
        alpha: float | None,
        domain: str | None,
        least: int,
        seed: int,
        columns: dict[str, Any],
    ) -> Splitting:
        """Options as given; `columns` as `columns_of` returns them.

        Raises:
            ValueError: options that contradict each other; names the option and the remedy.
        """
        classes = "label" in columns
        kind = kind or ("dirichlet" if classes else "quantity")
        skewed = kind in ("dirichlet", "quantity")
        if kind == "dirichlet" and not classes:
            raise ValueError(
                "--split: dirichlet skews classes, and these examples have none; take quantity, iid or domain"
            )
        if alpha is not None and not skewed:
            raise ValueError(
                f"--alpha: --split {kind} has no skew; leave --alpha out, or take --split dirichlet or quantity"
            )
        if alpha is not None and not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"--alpha: {alpha:g} is not a number above 0; 0.1 is severe skew, 100 is none")
        if kind == "domain" and domain is None:
            raise ValueError(
                "--domain: --split domain needs a column; name the column that holds each example's domain"
            )
        if kind != "domain" and domain is not None:
            raise ValueError("--domain: only --split domain looks at it; add --split domain or leave --domain out")
        by = "domain" if kind == "domain" else "label" if classes else None
        if skewed and alpha is None:
            alpha = DEFAULT_ALPHA
        return cls(kind, clients, alpha, domain, least, seed, by)

    def sites(self, train: Path, test: Path | None, columns: dict[str, Any]) -> tuple[list[Site], Sequence[Example]]:
        """Reads the files, and splits the first.

        Returns:
            The sites, and the test examples that all of them share. Split by domain, each has its own domain's instead.

        Raises:
            DataError, ValueError: a file cannot be read, or cannot be split like this.
        """
        from fedgalore.data.examples import SplitFile, read_examples
        from fedgalore.data.held import Chosen
        from fedgalore.data.partition import split
        from fedgalore.simulation import Site

        examples = read_examples(SplitFile(train, **columns, domain=self.domain))
        if self.kind == "dirichlet" and (odd := next((e for e in examples if not has_class(e)), None)):
            raise ValueError(
                f"--split: dirichlet skews classes, and label {odd['label']!r} of row {odd['row']} is no single class; "
                "take quantity, iid or domain"
            )
        held_out = read_examples(SplitFile(test, **columns, domain=self.domain)) if test else ()
        keys = [key_of(example, self.by) if self.by else None for example in examples]
        try:
            shards = split(self.kind, keys, self.clients, self.alpha or DEFAULT_ALPHA, self.seed, self.least)
        except ValueError as error:
            least = f" with --least {self.least}" if self.least > 1 else ""
            raise ValueError(f"--clients {self.clients}{least}: {error}") from error
        width = len(str(self.clients))
        names = [f"client-{number:0{width}}" for number in range(1, self.clients + 1)]
        parts = [Chosen(examples, shard) for shard in shards]
        if self.kind != "domain" or not test:
            return [Site(name, part, train_place=str(train)) for name, part in zip(names, parts, strict=True)], held_out
        own = _tests_by_domain([key_of(part[0], "domain") for part in parts], held_out)
        return [
            Site(name, part, tests, train_place=str(train), test_place=str(test))
            for name, part, tests in zip(names, parts, own, strict=True)
        ], ()

    def title(self, train: Path) -> str:
        """The title of a picture of the split."""
        alpha = f", alpha {self.alpha:g}" if self.alpha is not None else ""
        return f"{train.name} over {self.clients} clients: {self.kind} split{alpha}, seed {self.seed}"


def columns_of(text: list[str] | None, label: str, **others: str | None) -> dict[str, Any]:
    """The columns of a `SplitFile`; it checks which of them go together. `others`: those of tasks without a label."""
    if any(name is not None for name in others.values()):
        return {"text": tuple(text or ()), **others}
    return {"text": tuple(text or ["text"]), "label": label}


def has_class(example: Example) -> bool:
    """Whether its label is one class, as far as this shows: no list, and no fraction."""
    from fedgalore.data.values import as_number

    number = as_number(example["label"])
    return not isinstance(example["label"], list) and (number is None or number == number.to_integral_value())


def key_of(example: Example, by: str) -> Hashable:
    """A class or a domain, as it tells examples apart."""
    value = example[by]
    if by == "label" and "label_names" in example and isinstance(value, int):
        return str(example["label_names"][value])
    return str(value) if by == "domain" or isinstance(value, list) else value


def _tests_by_domain(domains: Sequence[Hashable], held_out: Sequence[Example]) -> list[Sequence[Example]]:
    """For each client its domain's test examples.

    Raises:
        ValueError: a domain has none, or there are some of a domain that no client has.
    """
    from fedgalore.data.held import Chosen

    keys = [key_of(example, "domain") for example in held_out]
    for one, other, remedy in (
        (set(domains), set(keys), "has no test examples; add some, or leave --test out"),
        (set(keys), set(domains), "has test examples and no training examples; leave them out"),
    ):
        if missing := sorted(map(str, one - other)):
            raise ValueError(f"--test: domain {missing[0]!r} {remedy}")
    return [Chosen(held_out, [index for index, key in enumerate(keys) if key == domain]) for domain in domains]


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


def _show(sites: Sequence[Site], by: str | None) -> None:
    """Prints who holds what as a table."""
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
            cells += [str(len(held[number])), escape(str(largest)), percent(count / len(site.train))]
        table.add_row(*cells)
    console().print(table)
