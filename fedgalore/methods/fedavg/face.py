"""Federated averaging as everybody else sees it: arXiv 1602.05629."""

from __future__ import annotations

from fedgalore.methods.fedavg.layout import FedAvgLayout
from fedgalore.methods.fedavg.spec import FedAvgSpec
from fedgalore.spec.method import MethodFace

METHOD = MethodFace(
    kind="fedavg",
    spec=FedAvgSpec,
    layout=FedAvgLayout,
    client="fedgalore.methods.fedavg.client:FedAvgClient",
    server="fedgalore.methods.fedavg.server:FedAvgServer",
    sums_changes=True,
    full_rank=True,
    trains="everything",
)
