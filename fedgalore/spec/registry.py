"""Every method that a job can name: those of this library, and those that other packages bring.

A package brings a method by an entry point of the group `fedgalore.methods` that names a `MethodFace`:

    [project.entry-points."fedgalore.methods"]
    my_kind = "my_package.face:METHOD"

It has to be installed wherever jobs of its kind are read: at the coordinator, at its aggregator and at every agent.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from fedgalore.spec.method import MethodFace

GROUP = "fedgalore.methods"
BUILT_IN = (
    "fedgalore.methods.fedgalore.face:METHOD",
    "fedgalore.methods.fedavg.face:METHOD",
    "fedgalore.methods.fedit.face:METHOD",
    "fedgalore.methods.ffa_lora.face:METHOD",
    "fedgalore.methods.fedex_lora.face:METHOD",
    "fedgalore.methods.frlora.face:METHOD",
    "fedgalore.methods.fedsvd.face:METHOD",
    "fedgalore.methods.flora.face:METHOD",
)


def resolve(name: str) -> Any:
    """What `module:attribute` names.

    Raises:
        ImportError, AttributeError: there is no such module or attribute.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@cache
def methods() -> dict[str, MethodFace]:
    """Every method by its kind: those of this library first."""
    return _known()[0]


@cache
def broken() -> dict[str, str]:
    """Methods of other packages that cannot be used: the entry point's name, and why."""
    return _known()[1]


def summing_kinds() -> list[str]:
    """Kinds whose server half sums the clients' changes in the full space."""
    return [kind for kind, face in methods().items() if face.sums_changes]


@cache
def _known() -> tuple[dict[str, MethodFace], dict[str, str]]:
    faces: dict[str, MethodFace] = {}
    for name in BUILT_IN:
        face: MethodFace = resolve(name)
        faces[face.kind] = face
    reasons = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            faces[entry.name] = _outside(entry.name, entry.load(), faces)
        except Exception as error:  # somebody else's code: a method that is broken must not take the others away
            reasons[entry.name] = f"{entry.value} cannot be used ({type(error).__name__}: {error})"
    return faces, reasons


def _outside(kind: str, face: object, known: dict[str, MethodFace]) -> MethodFace:
    if not isinstance(face, MethodFace):
        raise TypeError(f"the entry point names {type(face).__name__}, not a MethodFace")
    if face.kind != kind or kind in known:
        raise ValueError(f"the entry point is called {kind!r}, its method {face.kind!r}; both must be one new kind")
    return face
