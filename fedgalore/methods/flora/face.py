"""FLoRA as everybody else sees it."""

from __future__ import annotations

from fedgalore.methods.flora.layout import FLoRALayout
from fedgalore.methods.flora.spec import FLoRASpec
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="flora",
    spec=FLoRASpec,
    layout=FLoRALayout,
    client="fedgalore.methods.flora.client:FLoRAClient",
    server="fedgalore.methods.flora.server:FLoRAServer",
    sums_changes=True,
    trains="linear",
)
