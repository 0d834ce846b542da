"""Splitting a data set over clients: its options, the sites that come of them, and what tells examples apart."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.simulation import Site

Kind = Literal["iid", "dirichlet", "quantity", "domain"]  # as in fedgalore.data.partition, which --help has no time for
DEFAULT_ALPHA = 0.1


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
        from fedgalore.data.errors import shown
        from fedgalore.data.held import Chosen
        from fedgalore.data.partition import split
        from fedgalore.simulation import Site

        examples = _read("--train", train, columns | {"domain": self.domain})
        if self.kind == "dirichlet" and (odd := next((e for e in examples if not has_class(e)), None)):
            raise ValueError(
                f"--split: dirichlet skews classes, and label {shown(odd['label'])} of row {odd['row']} of {train} is "
                "no single class; take quantity, iid or domain"
            )
        held_out = _read("--test", test, columns | {"domain": self.domain}) if test else ()
        keys = [key_of(example, self.by) if self.by else None for example in examples]
        try:
            shards = split(self.kind, keys, self.clients, self.alpha or DEFAULT_ALPHA, self.seed, self.least)
        except ValueError as error:
            least = f" with --least {self.least}" if self.least > 1 else ""
            raise ValueError(f"--clients {self.clients}{least}: {error}") from error
        width = len(str(self.clients))
        names = [f"client-{number:0{width}}" for number in range(1, self.clients + 1)]
        parts = [Chosen(examples, shard) for shard in shards]
        where = f"--train {train}"
        if self.kind != "domain" or not test:
            return [Site(name, part, train_place=where) for name, part in zip(names, parts, strict=True)], held_out
        own = _tests_by_domain([key_of(part[0], "domain") for part in parts], held_out)
        return [
            Site(name, part, tests, train_place=where, test_place=f"--test {test}")
            for name, part, tests in zip(names, parts, own, strict=True)
        ], ()

    def title(self, train: Path) -> str:
        """The title of a picture of the split."""
        alpha = f", alpha {self.alpha:g}" if self.alpha is not None else ""
        return f"{train.name} over {self.clients} clients: {self.kind} split{alpha}, seed {self.seed}"


def _read(option: str, path: Path, columns: dict[str, Any]) -> Sequence[Example]:
    """The examples of a file.

    Raises:
        ValueError: it cannot be read; names the option.
    """
    from fedgalore.data.examples import DataError, SplitFile, read_examples

    try:
        return read_examples(SplitFile(path, **columns))
    except DataError as error:
        raise ValueError(f"{option}: {error}") from error


def columns_of(
    text: list[str] | None, label: str, for_templates: list[str] | None, **others: str | None
) -> dict[str, Any]:
    """The columns of a `SplitFile`; it checks which of them go together.

    Args:
        for_templates: each as NAME, or as NAME=COLUMN.
        others: those of tasks without a label.

    Raises:
        ValueError: a name that no template can call.
    """
    named = dict(_named(each) for each in for_templates or ())
    if named or any(name is not None for name in others.values()):
        return {"text": tuple(text or ()), **others, "for_templates": named}
    return {"text": tuple(text or ["text"]), "label": label}


def _named(option: str) -> tuple[str, str]:
    from fedgalore.spec.template import check_column

    name, _, column = option.partition("=")
    try:
        return check_column(name), column or name
    except ValueError as error:
        raise ValueError(f"--column: {error}") from error


def has_class(example: Example) -> bool:
    """Whether its label is one class, as far as this shows: no list, nor the text of one, and no fraction."""
    from fedgalore.data.values import as_list, as_number

    number = as_number(example["label"])
    return as_list(example["label"]) is None and (number is None or number == number.to_integral_value())


def key_of(example: Example, by: str) -> Hashable:
    """A class or a domain, as it tells examples apart: what means the same class is the same however it is written."""
    from fedgalore.data.values import key

    value = example[by]
    if by == "domain":
        return str(key(value))
    return str(example["label_names"][value]) if "label_names" in example and isinstance(value, int) else key(value)


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
