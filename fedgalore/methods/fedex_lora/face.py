"""FedExLoRA as everybody else sees it."""

from __future__ import annotations

from fedgalore.methods.fedex_lora.layout import FedExLoRALayout
from fedgalore.methods.fedex_lora.spec import FedExLoRASpec
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="fedex_lora",
    spec=FedExLoRASpec,
    layout=FedExLoRALayout,
    client="fedgalore.methods.lora.client:AdaptersClient",
    server="fedgalore.methods.fedex_lora.server:FedExLoRAServer",
    carries_tensors=True,
    trains="linear",
)
