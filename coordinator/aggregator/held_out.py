"""Evaluations on what the coordinator's operator holds out: `evaluation.central` of a job."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from coordinator.aggregator.stored_model import base_model, load_version
from coordinator.settings import HeldOutSet, not_held_out
from coordinator.state.job_state import Prepared
from coordinator.state.round_state import EvaluationResult, ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.data.examples import DataError, read_examples
from fedgalore.evaluation import evaluate
from fedgalore.model.inputs import TaskError
from fedgalore.spec.job import JobSpec


class HeldOutError(ValueError):
    """A job's held-out set cannot be evaluated; the message names the setting, the file and the remedy."""


def measure(
    spec: JobSpec,
    prepared: Prepared,
    model: ModelVersion,
    sets: Mapping[str, HeldOutSet],
    blobs: BlobStore,
    device: torch.device,
) -> EvaluationResult:
    """How a version does on the job's held-out set, as a site would measure it.

    Args:
        sets: the coordinator's setting `held_out`.

    Raises:
        HeldOutError: the set is unknown, cannot be read, or does not fit the job.
    """
    name = str(spec.evaluation.central)
    if name not in sets:
        raise HeldOutError(f"evaluation.central: {not_held_out(name, sets)}")
    try:
        examples = read_examples(sets[name].split_file(sets[name].file))
        with base_model(prepared, blobs) as base:
            result = evaluate(load_version(spec, base, model, blobs, device), examples)
    except (DataError, TaskError) as error:
        raise HeldOutError(f"evaluation.central: {name}, {sets[name].file}: {error}") from error
    return EvaluationResult(model.version, result.examples, result.metrics, result.counts)
