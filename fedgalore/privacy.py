"""Differential privacy of a job's clients towards whoever sees its models: clipped changes, Gaussian noise, epsilon.

McMahan, Ramage, Talwar, Zhang (2018), arXiv 1710.06963, with every client alike: a round's change is the mean over `M`
clients of changes cut to a norm of `C`, and each of its coordinates gets Gaussian noise of standard deviation
`z C / M`. A client that sent no change instead of its own would move what the noise is added to by `C / M` at most.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fedgalore.seeding import derive_seed

ORDERS = [1 + step / 10 for step in range(1, 100)] + list(range(12, 512))


def noise(shape: tuple[int, ...], deviation: float, secret: str, version: int, name: str) -> Tensor:
    """Float64 noise of one tensor of one version, the same whenever the version is made again.

    `secret` is known to the coordinator alone: who knows it can take the noise off. Torch's generator is no
    cryptographic one; floating point leaks a little (Mironov 2012).
    """
    generator = torch.Generator().manual_seed(derive_seed(int(secret, 16), "privacy", version, name))
    return deviation * torch.randn(shape, generator=generator, dtype=torch.float64)


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """What `rounds` rounds have cost, by the moments of Renyi's divergence (Mironov 2017), as Opacus computes it.

    Every client is counted as if it had been in every round: no gain by sampling is claimed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional parts, at the import
        from opacus.accountants.analysis import rdp  # type: ignore[import-untyped]  # takes seconds

        spent = rdp.compute_rdp(q=1.0, noise_multiplier=noise_multiplier, steps=rounds, orders=ORDERS)
        return float(rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)[0])
