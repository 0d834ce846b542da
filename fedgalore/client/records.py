"""The metrics of rounds as a table: the same rows of a federation's job and of a simulation, for the same plot.

| column            | what                                                                        |
|-------------------|-----------------------------------------------------------------------------|
| `round`           | its number                                                                  |
| `model_version`   | the version that the round starts from, which is the one that is evaluated  |
| `client`          | its name; None: of all clients of the round together                        |
| `source`          | `evaluation`: on clients' test examples                                     |
|                   | `training`: while they trained, together the mean by training examples      |
|                   | `held_out`: on the job's evaluation.central                                 |
|                   | `server`: by the aggregator, of trained matrices and of its time            |
|                   | `traffic`: bytes                                                            |
| `metric`, `value` | such as accuracy, and a share                                               |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib import import_module
from typing import Any

COLUMNS = ("round", "model_version", "client", "source", "metric", "value")


class Records(list[dict[str, Any]]):
    """Rows of a table, each with the same keys; `pandas.DataFrame(records)` takes them as they are."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Records:
        """These rows, in the order of rounds, clients, sources and metrics; what holds of all clients comes first."""
        return cls(sorted(map(dict, rows), key=_place))

    def frame(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas, which is not a requirement of this package, is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ImportError(
                "a data frame needs pandas: pip install pandas, or take the records as they are, a list of dicts"
            ) from error
        return pandas.DataFrame(list(self), columns=COLUMNS)

    def where(self, **values: Any) -> Records:
        """The rows that have these values, such as `where(source="evaluation", client=None, metric="accuracy")`."""
        return Records(row for row in self if all(row[name] == value for name, value in values.items()))

    def column(self, name: str) -> list[Any]:
        """One column, for a plot."""
        return [row[name] for row in self]

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(_cell(row[name]))}</td>' for name in COLUMNS)}</tr>" for row in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["round"], row["client"] is not None, row["client"], row["source"], row["metric"]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
