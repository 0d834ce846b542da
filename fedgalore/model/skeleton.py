"""A model's plan from its folder's `config.json` alone: built without values, so that it takes no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from fedgalore.model import folder as model_folder
from fedgalore.model.export import weight_files
from fedgalore.model.folder import ModelFolderError, check
from fedgalore.model.inputs import TaskError
from fedgalore.model.plan import training_plan
from fedgalore.model.task import LOADING
from fedgalore.model.tasks.registry import task_of
from fedgalore.spec.dtypes import STORED_AS
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import DTYPE_BYTES, TrainingPlan

_ANY_RATE = 1e-3  # which no number of a plan without values hangs on


def plan_of_folder(spec: JobSpec, folder: Path) -> TrainingPlan:
    """What the job would train of the folder's model. The folder needs no weights.

    Raises:
        TaskError: its configuration is none that transformers builds for the task, or the job cannot train the model.
    """
    transformers.utils.logging.set_verbosity_error()
    task = task_of(spec)
    try:
        check(folder)
        labels = {"num_labels": spec.model.labels} if task.has_head else {}
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **labels)
        with LOADING, torch.device("meta"):
            model = task.auto_model.from_config(config)
    except ModelFolderError as error:
        raise TaskError(f"model.source: {error}") from error
    except Exception as error:  # whatever a false configuration makes transformers raise
        problem = " ".join(str(error).partition("\nModel type should be one of")[0].split())
        raise TaskError(
            f"model.source: transformers builds no model for {spec.model.task} from {folder}: {problem}"
        ) from error
    local = spec.local.model_copy(update={"learning_rate": spec.local.learning_rate or _ANY_RATE})
    return training_plan(model, spec.model_copy(update={"local": local}))


def base_bytes(folder: Path, plan: TrainingPlan) -> int:
    """Bytes of the folder's files; where weights are missing, as many as its configuration says they take.

    Raises:
        TaskError: the index of its weights cannot be read.
    """
    files = model_folder.files(folder)
    try:
        weights = weight_files(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TaskError(
            f"model.source: model.safetensors.index.json of {folder} is damaged; save the model anew"
        ) from error
    if weights and all(path.is_file() for path in weights):
        return sum(path.stat().st_size for path in files)
    config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    stored = STORED_AS.get(str(config.dtype).removeprefix("torch."), "F32")
    others = sum(path.stat().st_size for path in files if path.suffix != ".safetensors")
    return others + _WIDTHS.get(stored, 4) * plan.shape.parameters


_WIDTHS = {"BF16": 2} | DTYPE_BYTES
