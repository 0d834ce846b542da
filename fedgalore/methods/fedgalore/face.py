"""FedGaLore as everybody else sees it: arXiv 2602.01746."""

from __future__ import annotations

from fedgalore.methods.fedgalore.layout import FedGaLoreLayout
from fedgalore.methods.fedgalore.spec import FedGaLoreSpec
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="fedgalore",
    spec=FedGaLoreSpec,
    layout=FedGaLoreLayout,
    client="fedgalore.methods.fedgalore.client:FedGaLoreClient",
    server="fedgalore.methods.fedgalore.server:FedGaLoreServer",
    sums_changes=True,
)
