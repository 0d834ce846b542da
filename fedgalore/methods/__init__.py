"""One file a method: its client half (a local update) and its server half (what becomes of the updates)."""

from __future__ import annotations

from fedgalore.methods.base import Method
from fedgalore.methods.fedavg import FedAvg
from fedgalore.methods.fedex_lora import FedExLoRA
from fedgalore.methods.fedgalore import FedGaLore
from fedgalore.methods.fedit import FedIT
from fedgalore.methods.ffa_lora import FFALoRA
from fedgalore.methods.flora import FLoRA
from fedgalore.spec.job import JobSpec

_METHODS: dict[str, Method] = {
    "fedgalore": FedGaLore(),
    "fedavg": FedAvg(),
    "fedit": FedIT(),
    "ffa_lora": FFALoRA(),
    "flora": FLoRA(),
    "fedex_lora": FedExLoRA(),
}


def method_of(spec: JobSpec) -> Method:
    """The job's method."""
    return _METHODS[spec.method.kind]
