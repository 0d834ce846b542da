"""One file a method: its client half (a local update) and its server half (what becomes of the updates)."""

from __future__ import annotations

from fedgalore.job_spec import JobSpec
from fedgalore.methods.base import Method


def method_of(spec: JobSpec) -> Method:
    """The job's method."""
    from fedgalore.methods import fedavg, fedex_lora, fedgalore, fedit, ffa_lora, flora

    methods: dict[str, Method] = {
        "fedgalore": fedgalore.FedGaLore(),
        "fedavg": fedavg.FedAvg(),
        "fedit": fedit.FedIT(),
        "ffa_lora": ffa_lora.FFALoRA(),
        "flora": flora.FLoRA(),
        "fedex_lora": fedex_lora.FedExLoRA(),
    }
    return methods[spec.method.kind]
