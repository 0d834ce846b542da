"""Labels of examples as the job's classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.data.labels import label_index
from fedgalore.spec.job import JobSpec


def classes(examples: Sequence[Example], spec: JobSpec) -> Tensor:
    """Class indices `(batch,)`, int64.

    Raises:
        TaskError: as `label_index`.
    """
    return torch.tensor([label_index(example, spec) for example in examples])
