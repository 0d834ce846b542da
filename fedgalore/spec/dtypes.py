"""The number formats that a model can be downloaded in, and safetensors' names for them. Without torch."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["base", "float32", "bfloat16", "float16"]
STORED_AS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def exported(stored: str, choice: Dtype) -> str:
    """The format of a tensor in a download, where the template of downloads holds it as `stored`.

    The template holds each tensor as the base model does, so that `base` changes nothing. Tensors that hold no floating
    point numbers, such as counts, stay as they are.
    """
    return STORED_AS[choice] if choice != "base" and stored in STORED_AS.values() else stored
