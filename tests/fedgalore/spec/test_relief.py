"""What a person is told to set where memory is too small."""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore.spec.relief import Doing, relief
from tests.builders import a_spec

LOW = {
    "batch_size": 8,
    "micro_batch_size": 1,
    "activation_checkpointing": True,
    "weights": "bfloat16",
    "precision": "bfloat16",
}
IMAGES = {"task": "image-classification"}


@pytest.mark.parametrize(
    ("sections", "doing", "told"),
    [
        (
            {"local": {"batch_size": 8}},
            "training",
            "set local.micro_batch_size: 4 (now 8), local.activation_checkpointing: true or local.weights: bfloat16 ",
        ),
        (
            {"local": {"batch_size": 8, "micro_batch_size": 3}, "model": IMAGES},
            "training",
            "set local.micro_batch_size: 1 (now 3), local.activation_checkpointing: true or local.weights: bfloat16",
        ),
        ({"local": LOW}, "training", "set data.max_length below 128 in the job, or give this site more memory"),
        (
            {"local": LOW, "data": {"max_length": 64}},
            "training",
            "take a smaller model.source, or give this site more memory",
        ),
        ({}, "evaluating", "set evaluation.batch_size: 32 (now 64) or data.max_length below 128 in the job, or"),
        ({}, "loading its model", "set local.weights: bfloat16 with local.precision: bfloat16 in the job, or give"),
        ({"local": LOW}, "loading its model", "take a smaller model.source, or give this site more memory"),
        (
            {"method": {"kind": "fedavg"}, "local": {"batch_size": 1, "activation_checkpointing": True}},
            "training",
            "set data.max_length below 128 in the job, or give this site more memory",
        ),
    ],
)
def test_what_helps_and_is_not_set_yet(sections: dict[str, Any], doing: Doing, told: str) -> None:
    assert relief(a_spec(**sections), doing).startswith(told)
