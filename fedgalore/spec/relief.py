"""Which settings of a job lower the memory that it takes at a site, in words. Without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fedgalore.spec.job import JobSpec

Doing = Literal["loading its model", "evaluating", "training"]
MOST_NAMED = 3
_SHORT = 64  # tokens: shorter texts are hardly what takes the memory


def relief(spec: JobSpec, doing: Doing = "training") -> str:
    """What to set, those that help most first and none that is set already; else what to take in their place."""
    settings = [*_settings(spec, doing)][:MOST_NAMED]
    more = "give this site more memory"
    if not settings:
        return f"take a smaller model.source, or {more}"
    return f"set {' or '.join(filter(None, (', '.join(settings[:-1]), settings[-1])))} in the job, or {more}"


def _settings(spec: JobSpec, doing: Doing) -> Iterator[str]:
    local, evaluation = spec.local, spec.evaluation
    if doing == "training":
        if (rows := local.micro_batch_size or local.batch_size) > 1:
            yield f"local.micro_batch_size: {rows // 2} (now {rows})"
        if not local.activation_checkpointing:
            yield "local.activation_checkpointing: true"
    if doing == "evaluating" and evaluation.batch_size > 1:
        yield f"evaluation.batch_size: {evaluation.batch_size // 2} (now {evaluation.batch_size})"
    if doing != "loading its model" and spec.model.task != "image-classification" and spec.data.max_length > _SHORT:
        yield f"data.max_length below {spec.data.max_length}"
