"""`fedgalore partition`, and the splitting of a data set, which `fedgalore simulate` uses as well."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from fedgalore_cli.client import fail
from fedgalore_cli.show import console, percent

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.simulation import Site

Kind = Literal["iid", "dirichlet", "quantity", "domain"]  # as in fedgalore.data.partition, which --help has no time for
DEFAULT_ALPHA = 0.1
OWN_KEYS = ("label", "tokens", "tags", "prompt", "completion", "messages")  # columns that shards keep by these names

Clients = Annotated[int, typer.Option("--clients", min=1, help="How many clients to split the data over")]
Train = Annotated[Path | None, typer.Option("--train", help="Training examples: JSONL, CSV, TSV or Parquet")]
Test = Annotated[Path | None, typer.Option("--test", help="Held-out examples, the same for every client")]
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
    train: Annotated[Path, typer.Option("--train", help="Training examples: JSONL, CSV, TSV or Parquet")],
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
        columns = columns_of(
            text, label, prompt=prompt, completion=completion, tokens=tokens, tags=tags, messages=messages
        )
        splitting = Splitting.of(split, clients, alpha, domain, least, split_seed, columns)
        check_picture(picture)
        sites = splitting.sites(train, columns)
        held_out = read_test(test, columns)
        if picture is not None:
            draw(picture, sites, splitting.by, splitting.title(train))
        for site in sites:
            _write(to / site.name, {"train": site.train, "test": held_out}, dataset, coordinator)
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

    def sites(self, train: Path, columns: dict[str, Any]) -> list[Site]:
        """Reads a file and splits it.

        Raises:
            DataError, ValueError: the file cannot be read, or cannot be split like this.
        """
        from fedgalore.data.examples import SplitFile, read_examples
        from fedgalore.data.partition import split
        from fedgalore.simulation import Site

        examples = read_examples(SplitFile(train, **columns, domain=self.domain))
        if self.kind == "dirichlet" and (odd := next((e for e in examples if not has_class(e)), None)):
            raise ValueError(
                f"--split: dirichlet skews classes, and label {odd['label']!r} of row {odd['row']} is no single class; "
                "take quantity, iid or domain"
            )
        keys = [example[self.by] if self.by else None for example in examples]
        try:
            shards = split(self.kind, keys, self.clients, self.alpha or DEFAULT_ALPHA, self.seed, self.least)
        except ValueError as error:
            least = f" with --least {self.least}" if self.least > 1 else ""
            raise ValueError(f"--clients {self.clients}{least}: {error}") from error
        width = len(str(self.clients))
        return [
            Site(f"client-{number:0{width}}", [examples[index] for index in shard])
            for number, shard in enumerate(shards, start=1)
        ]

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
    from fedgalore.data.labels import as_number

    number = as_number(example["label"])
    return not isinstance(example["label"], list) and (number is None or number == number.to_integral_value())


def read_test(test: Path | None, columns: dict[str, Any]) -> list[Example]:
    """The held-out examples; there are none without a file.

    Raises:
        DataError: as `read_examples`.
    """
    from fedgalore.data.examples import SplitFile, read_examples

    return read_examples(SplitFile(test, **columns)) if test else []


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
    examples = [example for site in sites for example in site.train]
    if by is None or (by == "label" and not all(map(has_class, examples))):
        return shards, None
    return shards, [str(example[by]) for example in examples]


def _write(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], dataset: str, coordinator: str) -> None:
    """One client's files and agent config."""
    folder.mkdir(parents=True)
    names = {}
    for split, examples in splits.items():
        if examples:
            names[split] = f"{split}.jsonl"
            lines = [json.dumps({k: v for k, v in e.items() if k != "row" and v is not None}) for e in examples]
            (folder / names[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    first = splits["train"][0]
    keys: dict[str, Any] = {key: key for key in OWN_KEYS if key in first}
    if "text" in first:
        keys["text"] = ["text", "text_pair"] if first["text_pair"] is not None else "text"
    document = {
        "name": folder.name,
        "coordinator": coordinator,
        "work_dir": "work",
        "data": {dataset: {**names, **keys}},
    }
    (folder / "agent.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


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
