"""Parameters that are steps of their own: of what others share memory with, and of the parts of larger ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from fedgalore.spec.plan import Target, TrainingPlan


def part_memory(model: nn.Module) -> None:
    """Gives each parameter memory of its own; a parameter with several names stays one.

    transformers cuts weights that lie packed in a folder into views of one tensor, and autograd takes a step of one of
    those for a step of all.
    """
    held: defaultdict[int, list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        held[parameter.untyped_storage().data_ptr()].append(parameter)
    own = {
        parameter: nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        for sharing in held.values()
        for parameter in sharing
        if len(sharing) > 1 and parameter.numel()
    }
    places = places_of(model)
    for parameter, new in own.items():
        put(new, places[parameter])


def places_of(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Where each parameter is: the modules that hold it, with its name there."""
    places: defaultdict[nn.Parameter, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[parameter].append((module, name))
    return places


def put(parameter: nn.Parameter, places: Iterable[tuple[nn.Module, str]]) -> None:
    """Puts a parameter in the place of another."""
    for module, name in places:
        module.register_parameter(name, parameter)


def matrices_of(plan: TrainingPlan, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Each target's matrix by name: a parameter, or a part of one that shares its memory.

    A part gets its gradient as soon as the parameter's is complete, by a backward pass of its own, so that hooks of
    optimizers fire; the parameter keeps none. A part whose gradient is all zero gets none: an expert that saw no token.
    """
    parts: defaultdict[str, list[Target]] = defaultdict(list)
    for target in plan.targets:
        parts[target.parameter].append(target)
    matrices: dict[str, nn.Parameter] = {}
    for name, targets in parts.items():
        parameter = parameters[name]
        if targets[0].whole is None:
            matrices[name] = parameter
            continue
        parameter.data = parameter.data.contiguous()
        shared = parameter.detach().view(len(targets), *targets[0].shape)
        views = [nn.Parameter(part, requires_grad=True) for part in shared]
        parameter.register_post_accumulate_grad_hook(partial(_hand_over, views))
        matrices |= {target.name: view for target, view in zip(targets, views, strict=True)}
    return matrices


def _hand_over(views: list[nn.Parameter], parameter: Tensor) -> None:
    gradient, parameter.grad = parameter.grad, None
    if gradient is None:
        return
    for view, part in zip(views, gradient.reshape(len(views), *views[0].shape), strict=True):
        if part.any():
            view.backward(part)
