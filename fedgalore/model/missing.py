"""What a folder lacks of a model, or has beyond it: only a head may be new, else the folder holds another model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from fedgalore.model.inputs import TaskError
from fedgalore.model.layers import in_backbone

POOLER = "pooler"  # a part of some backbones that serves the head, and that other heads' folders do without
_NUMBER = re.compile(r"\.\d+(?=\.)")  # of a block


def new_tensors(model: nn.Module, loaded: Mapping[str, Any], *, has_head: bool) -> set[str]:
    """Names of the model's tensors that were drawn anew, as its folder has none of their shape.

    Args:
        loaded: what `from_pretrained` says of it.
        has_head: the job trains a head of its own, so that it may be new.

    Raises:
        TaskError: others are new as well, or the folder has more layers than the model; names some.
    """
    if beyond := list(_of_more_layers(model, loaded["unexpected_keys"])):
        raise TaskError(
            f"model.source: the folder has more layers than its config.json says: {len(beyond)} tensors such as "
            f"{beyond[0]} would be left out; correct the number of layers in config.json, or save the shorter model "
            "anew"
        )
    new = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
    needed = sorted(name for name in new if _is_needed(model, name, has_head))
    if not needed:
        return new
    kind, more = type(model).__name__, f" and {len(needed) - 3} more" if len(needed) > 3 else ""
    raise TaskError(
        f"model.source: tensors of {kind} are not in the folder, or of another shape there: "
        f"{', '.join(needed[:3])}{more}; take a folder that holds {'its backbone' if has_head else 'all of it'}, with "
        "the config.json that belongs to the weights"
    )


def _is_needed(model: nn.Module, name: str, has_head: bool) -> bool:
    if in_backbone(model, name):
        return not has_head or POOLER not in name.split(".")
    return not has_head and name in dict(model.named_parameters(remove_duplicate=False))


def _of_more_layers(model: Any, unexpected: Sequence[str]) -> Iterator[str]:
    """Names that differ from the model's own by the number of their block alone."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    known = {_NUMBER.sub(".#", name) for name in model.state_dict()}
    known |= {name.removeprefix(prefix) for name in known}
    return (name for name in sorted(unexpected) if _NUMBER.search(name) and _NUMBER.sub(".#", name) in known)
