"""A model's state that is no parameter and that training changes: running statistics, moving ranges, power iterations.

Layers of torch are known by their class. Whatever else a model keeps as buffers is tried: those that change while the
model runs in training mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm

from fedgalore.spec.plan import Buffer

COMPUTED = ("inv_freq", "position_ids", "token_type_ids", "embed_scale")  # from the configuration: ends of names
NOT_NEGATIVE = ("running_var", "num_batches_tracked")  # of torch's normalisations
SIDE = 64  # pixels of a trial image for a model that takes any size


class UnsavedStateError(ValueError):
    """Training changes state that is not saved with the model; the message names it."""


def moving_buffers(model: nn.Module) -> list[Buffer]:
    """The saved buffers that training changes, in the model's order. Leaves the model and random numbers as they were.

    Where the model cannot be tried, every floating-point buffer of an unknown layer counts: one that stands still costs
    bytes and nothing else.

    Raises:
        UnsavedStateError: a buffer moves that `save_pretrained` would not write.
    """
    buffers = dict(model.named_buffers())
    saved = buffers.keys() & model.state_dict().keys()
    moving = _of_known_layers(model) & saved
    unknown = {name for name in buffers.keys() - moving if _may_move(name, buffers[name], name in saved)}
    if unknown:
        moving |= _moved(model, unknown, saved)
    if unsaved := sorted(moving - saved):
        raise UnsavedStateError(", ".join(unsaved))
    return [
        Buffer(name, tuple(buffer.shape), name.endswith(NOT_NEGATIVE))
        for name, buffer in buffers.items()
        if name in moving
    ]


def _of_known_layers(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, _NormBase | _SpectralNorm)
        for name, _ in module.named_buffers(recurse=False)
    }


def _may_move(name: str, buffer: Tensor, is_saved: bool) -> bool:
    """Masks hold infinities, and what is not saved is mostly computed from the configuration."""
    if name.endswith(COMPUTED) or not (is_saved or buffer.is_floating_point()) or buffer.is_meta:
        return False
    return buffer.dtype != torch.bool and bool(torch.isfinite(buffer).all())


def _moved(model: nn.Module, names: set[str], saved: set[str]) -> set[str]:
    """Those of `names` that a pass in training mode changes.

    What is not saved counts where a second pass changes it again: a first pass may just fill a cache.
    """
    inputs = _trial_inputs(model)
    before = _values(model, names)
    with undone(model), torch.no_grad():
        model.train()
        try:
            model(**inputs)
            between = _values(model, names)
            model(**inputs)
        except Exception:  # a model can refuse inputs that are none in any way
            return {name for name in names & saved if before[name].is_floating_point()}
        after = _values(model, names)
    again = {name for name in names if not _same(between[name], after[name])}
    return again | {name for name in names & saved if not _same(before[name], between[name])}


def _trial_inputs(model: nn.Module) -> Mapping[str, Any]:
    """A batch of two, of four tokens or one image each, whatever they mean."""
    config: Any = model.config
    device = next(model.parameters()).device
    if getattr(model, "main_input_name", "") == "pixel_values":
        side = getattr(config, "image_size", None) or SIDE
        height, width = (side, side) if isinstance(side, int) else side
        shape = (2, getattr(config, "num_channels", 3), height, width)
        count = shape[0] * shape[1] * height * width
        return {"pixel_values": torch.linspace(-1, 1, count, device=device).reshape(shape)}
    ids = torch.arange(8, device=device).reshape(2, 4) % config.get_text_config().vocab_size
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Puts buffers, modes and random numbers back at the end: buffers that were written as those that were replaced."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                setattr(module, name, buffer)


def _values(model: nn.Module, names: set[str]) -> dict[str, Tensor]:
    return {name: model.get_buffer(name).clone() for name in names}


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(torch.equal(first, second))
