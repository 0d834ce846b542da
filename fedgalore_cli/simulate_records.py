"""`fedgalore simulate --output json`: every record as a JSON object a line, on stdout. Each object has its `type`:

| type | what |
|---|---|
| `job` | the first: `version` of this software, `job` with all defaults, examples of `sites` and `held_out` |
| `round` | every field of a `fedgalore.records.RoundRecord` |
| `result` | the last: `model_version`, `evaluation`, `pooled` and `held_out` of the final model |
|          | `best` (`evaluation.keep`): its version and value, and by whom, or in `no_best` why there is none |
|          | the `folder` that holds the `folder_version` |
| `error` | the last, in place of `result`, by `fedgalore_cli.errors`: `problem`, which stands on stderr too |

A number that is not finite, which JSON cannot hold, is null. As YAML, each is a document of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgalore_cli.options import Format
from fedgalore_cli.output import record

if TYPE_CHECKING:
    from fedgalore.data.examples import Example
    from fedgalore.records import RoundRecord, SimulationResult
    from fedgalore.simulation import Site
    from fedgalore.spec.job import JobSpec


class Records:
    """Prints the records of one simulation; prints nothing where they are not wanted."""

    def __init__(self, output: Format) -> None:
        self._output = output

    @property
    def wanted(self) -> bool:
        return self._output is not Format.TABLE

    def begin(self, spec: JobSpec, sites: Sequence[Site], held_out: Mapping[str, Sequence[Example]]) -> None:
        from fedgalore.version import __version__

        examples = {site.name: {"train": len(site.train), "test": len(site.test)} for site in sites}
        others = {name: len(rows) for name, rows in held_out.items()}
        job = spec.model_dump(mode="json")
        self._print("job", {"version": __version__, "job": job, "sites": examples, "held_out": others})

    def round(self, record: RoundRecord) -> None:
        self._print("round", asdict(record))

    def end(self, result: SimulationResult, folder: Path | None, folder_version: int) -> None:
        final = {
            name: getattr(result.rounds[-1], name) for name in ("model_version", "evaluation", "pooled", "held_out")
        }
        final["pooled"] = asdict(final["pooled"])
        final["held_out"] = {name: asdict(each) for name, each in final["held_out"].items()}
        found = result.best
        best = {"model_version": found.version, "value": found.value, "by": found.by} if found else None
        where = {"folder": str(folder), "folder_version": folder_version} if folder else {"folder": None}
        self._print("result", {**final, "best": best, "no_best": result.no_best, **where})

    def _print(self, kind: str, values: dict[str, Any]) -> None:
        if self.wanted:
            record(self._output, {"type": kind, **_finite(values)})


def _finite(value: Any) -> Any:
    """The value with null in place of numbers that JSON cannot hold."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value
