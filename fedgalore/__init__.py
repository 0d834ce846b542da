"""FedGaLore's algorithm: low-rank gradient subspaces on the clients, spectral alignment on the server.

The names below are what a first experiment needs; each is loaded when it is first used, so that importing the package
costs nothing and brings no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedgalore.version import PROTOCOL_VERSION, __version__

if TYPE_CHECKING:
    from fedgalore.data.examples import SplitFile, read_examples
    from fedgalore.data.partition import split
    from fedgalore.maths.optim import GaLoreAdamW
    from fedgalore.records import RoundRecord, SimulationResult
    from fedgalore.simulation import Site, simulate
    from fedgalore.spec.job import JobSpec
    from fedgalore.spec.job import load as load_job
    from fedgalore.spec.job import parse as parse_job

__all__ = [
    "PROTOCOL_VERSION",
    "GaLoreAdamW",
    "JobSpec",
    "RoundRecord",
    "SimulationResult",
    "Site",
    "SplitFile",
    "__version__",
    "load_job",
    "parse_job",
    "read_examples",
    "simulate",
    "split",
]

_HOMES = {
    "GaLoreAdamW": ("fedgalore.maths.optim", "GaLoreAdamW"),
    "JobSpec": ("fedgalore.spec.job", "JobSpec"),
    "RoundRecord": ("fedgalore.records", "RoundRecord"),
    "SimulationResult": ("fedgalore.records", "SimulationResult"),
    "Site": ("fedgalore.simulation", "Site"),
    "SplitFile": ("fedgalore.data.examples", "SplitFile"),
    "load_job": ("fedgalore.spec.job", "load"),
    "parse_job": ("fedgalore.spec.job", "parse"),
    "read_examples": ("fedgalore.data.examples", "read_examples"),
    "simulate": ("fedgalore.simulation", "simulate"),
    "split": ("fedgalore.data.partition", "split"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedgalore' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
