"""Labels of examples as the job's classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.inputs import TaskError
from fedgalore.spec.job import JobSpec


def classes(examples: Sequence[Example], spec: JobSpec) -> Tensor:
    """Class indices `(batch,)`, int64.

    Raises:
        TaskError: as `label_index`.
    """
    return torch.tensor([label_index(example, spec) for example in examples])


def label_index(example: Example, spec: JobSpec) -> int:
    """The example's label as a class index.

    Raises:
        TaskError: not one of the job's classes; names the row, the value and what is allowed.
    """
    label, names, row = example["label"], spec.model.label_names, example.get("row", "?")
    if names is not None and label in names:
        return names.index(label)
    try:
        index = int(label)
    except (TypeError, ValueError):
        known = (
            f"one of {', '.join(names)}"
            if names
            else f"a number from 0 to {spec.model.labels - 1}, or set model.label_names"
        )
        raise TaskError(f"row {row}: label {label!r} is not a class of this job; expected {known}") from None
    if not 0 <= index < spec.model.labels:
        raise TaskError(
            f"row {row}: label {index} is outside the range 0 to {spec.model.labels - 1}; "
            "correct the data or the job's model.num_labels"
        )
    return index
