"""FedIT as everybody else sees it."""

from __future__ import annotations

from fedgalore.methods.fedit.spec import FedITSpec
from fedgalore.methods.lora.layout import AdaptersLayout
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="fedit",
    spec=FedITSpec,
    layout=AdaptersLayout,
    client="fedgalore.methods.lora.client:AdaptersClient",
    server="fedgalore.methods.lora.server:AdaptersServer",
    carries_tensors=True,
    trains="linear",
)
