"""FFALoRA as everybody else sees it."""

from __future__ import annotations

from fedgalore.methods.ffa_lora.layout import FFALoRALayout
from fedgalore.methods.ffa_lora.spec import FFALoRASpec
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="ffa_lora",
    spec=FFALoRASpec,
    layout=FFALoRALayout,
    client="fedgalore.methods.ffa_lora.client:FFALoRAClient",
    server="fedgalore.methods.lora.server:AdaptersServer",
    carries_tensors=True,
    trains="linear",
)
