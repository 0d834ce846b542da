"""Which settings of a job lower the memory that it takes at a site, in words. Without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fedgalore.spec.job import JobSpec

Doing = Literal["loading its model", "evaluating", "training"]
MOST_NAMED = 3
_SHORT = 64  # tokens: shorter texts are hardly what takes the memory


def relief(spec: JobSpec, doing: Doing = "training", rows: int | None = None) -> str:
    """What to set, those that help most first and none that is set already; else what to take in their place.

    Args:
        rows: of a pass, as many as there is memory for; None: nobody knows.
    """
    settings = [*_settings(spec, doing, rows)][:MOST_NAMED]
    more = "give this site more memory"
    if not settings:
        return f"take a smaller model.source, or {more}"
    return f"set {' or '.join(filter(None, (', '.join(settings[:-1]), settings[-1])))} in the job, or {more}"


def _settings(spec: JobSpec, doing: Doing, rows: int | None) -> Iterator[str]:
    local = spec.local
    if doing == "training":
        yield from _fewer("local.micro_batch_size", local.rows_of_a_pass, rows)
        if not local.activation_checkpointing:
            yield "local.activation_checkpointing: true"
    if doing != "evaluating" and local.weights == "float32" and spec.method.steps_in_bfloat16:
        yield "local.weights: bfloat16 with local.precision: bfloat16"
    if doing == "evaluating":
        yield from _fewer("evaluation.batch_size", spec.rows_of_an_evaluation, rows)
    if doing != "loading its model" and spec.model.task != "image-classification" and spec.data.max_length > _SHORT:
        yield f"data.max_length below {spec.data.max_length}"


def _fewer(field: str, now: int, rows: int | None) -> Iterator[str]:
    """Half of the rows, or as many as there is memory for; nothing where there is none for a single one."""
    fewer = now // 2 if rows is None else min(rows, now - 1)
    if fewer:
        yield f"{field}: {fewer} (now {now})"
