"""FRLoRA as everybody else sees it."""

from __future__ import annotations

from fedgalore.methods.frlora.spec import FRLoRASpec
from fedgalore.methods.lora.layout import AdaptersLayout
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="frlora",
    spec=FRLoRASpec,
    layout=AdaptersLayout,
    client="fedgalore.methods.lora.client:AdaptersClient",
    server="fedgalore.methods.frlora.server:FRLoRAServer",
    carries_tensors=True,
    trains="linear",
)
