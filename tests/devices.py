"""Several devices on one CPU: tensors that say `cpu:1` or `cpu:2`, and operations that refuse to mix them.

A kernel of CUDA refuses operands of two cards, but for single numbers of the host. So do these, and their numbers are
those of the CPU. Its stochastic rounding draws int16 numbers on the host, which a GPU draws for itself: those pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

HOST = torch.device("cpu")
FIRST, SECOND = torch.device("cpu:1"), torch.device("cpu:2")
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Placed(Tensor):
    """A tensor of the host that says it lies elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Placed:
        shape: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device=device, requires_grad=False, **shape
        )

    def __init__(self, held: Tensor, device: torch.device) -> None:
        self.held = held

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], device: torch.device, _size: Any, _stride: Any) -> Placed:
        return Placed(inner["held"], device)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _done(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Factories(TorchDispatchMode):
    """Makes new tensors where they are asked for."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would be imported, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})


@contextmanager
def several_devices() -> Iterator[tuple[torch.device, torch.device]]:
    with Factories():  # type: ignore[no-untyped-call]
        yield FIRST, SECOND


def _done(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on what the host holds, with its result where its operands are."""
    operands: list[Tensor] = []
    asked = kwargs.get("device")

    def noted(tensor: Tensor) -> Tensor:
        operands.append(tensor)
        return _held(tensor)

    held = _mapped(noted, (args, list(kwargs.values())))
    places = {each.device for each in operands if each.device != HOST or _is_of_host(each)}
    if len(places) > 1 and func not in MOVES:
        raise RuntimeError(f"{func} of tensors on {sorted(map(str, places))}")
    place = asked or (args[0].device if func in MOVES else next(iter(places), HOST))
    named = dict(zip(kwargs, held[1], strict=True)) | ({} if asked is None else {"device": HOST})
    known = {id(_held(each)): each for each in operands}  # what changes in place goes on as it is

    def placed(tensor: Tensor) -> Tensor:
        return known[id(tensor)] if id(tensor) in known else Placed(tensor, place) if place.index else tensor

    return _mapped(placed, func(*held[0], **named))


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_mapped(change, each) for each in value) if type(value) in (tuple, list) else value


def _is_of_host(tensor: Tensor) -> bool:
    """`torch.tensor([], device=...)` of transformers' caches asks nobody where to lie."""
    return tensor.dim() > 0 and tensor.numel() > 0 and tensor.dtype != torch.int16


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, Placed) else tensor
