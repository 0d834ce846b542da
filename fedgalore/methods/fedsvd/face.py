"""FedSVD as everybody else sees it."""

from __future__ import annotations

from fedgalore.methods.fedsvd.layout import FedSVDLayout
from fedgalore.methods.fedsvd.spec import FedSVDSpec
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="fedsvd",
    spec=FedSVDSpec,
    layout=FedSVDLayout,
    client="fedgalore.methods.ffa_lora.client:FFALoRAClient",
    server="fedgalore.methods.fedsvd.server:FedSVDServer",
    carries_tensors=True,
    trains="linear",
)
