"""The precision of a model's passes: float32, or mixed with bfloat16 as `torch.autocast` does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PRODUCTS = {
    F.linear,
    F.conv2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.bmm,
}


@contextmanager
def passes_in(precision: str, device: torch.device) -> Iterator[None]:
    """Forward passes inside run in `float32` or `bfloat16`; their backward passes follow, wherever they run.

    A CPU without bfloat16 arithmetic is tens of times slower in it than in float32. There products round what goes in
    and what comes out to bfloat16, and multiply in float32: bfloat16 products sum in float32 too, so that the numbers
    differ by the order of sums only.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16), _products_in(precision, device):
        yield


def again_in(precision: str, device: torch.device) -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
    """What `torch.utils.checkpoint` runs a part of a pass in, and that part again. Torch sees to autocast itself."""
    return nullcontext(), _products_in(precision, device)


def _products_in(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    is_slow = precision == "bfloat16" and device.type == "cpu" and not multiplies_bfloat16()
    return RoundedProducts() if is_slow else nullcontext()


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions that bfloat16 products are fast with (AVX-512 or AMX, Arm's BF16)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class RoundedProducts(TorchFunctionMode):
    """Products that autocast would do in bfloat16 are done in float32, of operands and with a result so rounded."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            result = func(*map(_rounded, args), **{name: _rounded(value) for name, value in kwargs.items()})
            return result.bfloat16()


def _rounded(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.is_floating_point()
    return value.bfloat16().float() if is_number else value
