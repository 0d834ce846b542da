"""What each parameter of a model is: its layer's kind, by which a plan chooses what is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

HEADS = ("classifier", "score", "head", "fc", "lm_head")  # names of heads in models that name no backbone
# Parameters that are looked up or added, not multiplied with: tables of positions, tokens of the model's own.
_TABLE = re.compile(r"embed|position|pos_|table|token")


@dataclass(frozen=True)
class Weight:
    """A parameter, its kind of `census.KINDS`, and whether PEFT can wrap the layer that multiplies by it.

    `layer` is what a job calls it: the parameter's name without `.weight`. `is_shared`: several layers hold it, as they
    do a tied weight, or its layer stands in several places. `is_output`: the layer that tells the words holds it; where
    it is tied, it is of the kind "embedding" all the same.
    """

    name: str
    kind: str
    parameter: nn.Parameter
    is_wrappable: bool
    is_shared: bool
    is_output: bool = False

    @property
    def layer(self) -> str:
        return self.name.removesuffix(".weight")


def weights_of(model: nn.Module) -> Iterator[Weight]:
    """The floating-point parameters in the model's order; one with several names comes once, by its first."""
    everything = model.named_parameters(remove_duplicate=False)
    inside = {id(parameter) for name, parameter in everything if in_backbone(model, name)}
    # Attention of torch multiplies by this layer's weight and never calls the layer.
    uncalled = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    holders, outputs = _holders(model), _outputs(model)
    seen: set[int] = set()
    for path, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.is_floating_point():
                continue
            seen.add(id(parameter))
            name = f"{path}.{local}" if path else local
            kind = kind_of(name, module, parameter) if id(parameter) in inside else "head"
            is_shared = holders[id(parameter)] > 1  # and PEFT would wrap one of its layers
            is_wrappable = kind in ("linear", "conv1d") and id(module) not in uncalled and not is_shared
            yield Weight(name, kind, parameter, is_wrappable, is_shared, id(parameter) in outputs)


def _outputs(model: Any) -> set[int]:
    """The parameters of the layer that tells the words, by id; none where the model has no such layer."""
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return set(map(id, layer.parameters())) if isinstance(layer, nn.Module) else set()


def _holders(model: nn.Module) -> Counter[int]:
    """In how many places of the model the layers of each parameter stand, by the parameter's id."""
    places = Counter(id(child) for module in model.modules() for child in module._modules.values())
    holders: Counter[int] = Counter()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] += max(1, places[id(module)])
    return holders


def in_backbone(model: nn.Module, name: str) -> bool:
    """Whether a tensor of the model is of the backbone that transformers names; else, as in CLIP, of no head."""
    prefix = getattr(model, "base_model_prefix", "")
    if prefix and isinstance(getattr(model, prefix, None), nn.Module):
        return name.startswith(f"{prefix}.")
    return name.partition(".")[0] not in HEADS


def kind_of(name: str, module: nn.Module, parameter: nn.Parameter) -> str:
    """The kind of a parameter of the backbone, by the class of its layer, else by its name and shape."""
    owner, local = type(module).__name__.lower(), name.rpartition(".")[2]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or "embedding" in owner or _TABLE.search(local):
        return "embedding"
    if "norm" in owner:
        return "norm"
    if "bias" in local:
        return "bias"
    if local == "weight" and isinstance(module, nn.Linear):
        return "linear"
    if local == "weight" and isinstance(module, Conv1D):
        return "conv1d"
    if local == "weight" and isinstance(module, _ConvNd):
        return "embedding" if _embeds_patches(name, module) else "convolution"
    if parameter.dim() == 3 and _holds_experts(name, owner, module, len(parameter)):
        return "experts"
    return "other"


def _embeds_patches(name: str, module: _ConvNd) -> bool:
    """Whether it is to an image what a table of tokens is to a text: a product with each patch, side by side."""
    return "patch_embed" in name and tuple(module.kernel_size) == tuple(module.stride)


def _holds_experts(name: str, owner: str, module: nn.Module, count: int) -> bool:
    return "expert" in owner or "experts" in name.split(".") or getattr(module, "num_experts", None) == count
