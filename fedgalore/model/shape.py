"""The shape of a model, by which its memory is foreseen; values are not looked at, so they may be missing."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from fedgalore.model.layers import weights_of
from fedgalore.spec.shape import ModelShape


def shape_of(model: nn.Module) -> ModelShape:
    """Counts the parameters and the layers of a model of transformers."""
    weights, transformer = list(weights_of(model)), cast("Any", model)
    config = transformer.config.get_text_config(decoder=True)
    chosen = getattr(config, "num_experts_per_tok", None) or getattr(config, "num_selected_experts", None) or 1
    inner = 0
    for weight in weights:
        shape = weight.parameter.shape
        if weight.kind in ("linear", "conv1d"):
            inner += sum(shape)
        elif weight.kind == "experts":
            inner += min(chosen, shape[0]) * sum(shape[1:])
    blocks = sum(isinstance(module, GradientCheckpointingLayer) for module in model.modules())
    return ModelShape(
        parameters=sum(weight.parameter.numel() for weight in weights),
        inner=inner,
        blocks=blocks,
        between=getattr(config, "hidden_size", 0) if blocks else 0,
        outputs=_logits(model),
    )


def _logits(model: Any) -> int:
    """Of a token; a tied output layer counts as well."""
    layer = model.get_output_embeddings()
    return len(layer.weight) if layer is not None and hasattr(layer, "weight") else 0
