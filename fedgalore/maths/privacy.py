"""Differential privacy of a job's clients towards whoever sees its models: clipped changes, Gaussian noise, epsilon.

McMahan, Ramage, Talwar, Zhang (2018), arXiv 1710.06963, with every client alike: a round's change is the mean over `M`
clients of changes cut to a norm of `C`, and each of its coordinates gets Gaussian noise of standard deviation
`z C / M`. A client that sent no change instead of its own would move what the noise is added to by `C / M` at most.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

ORDERS = [1 + step / 10 for step in range(1, 100)] + list(range(12, 512))


def noise(shape: tuple[int, ...], deviation: float, key: str, name: str) -> Tensor:
    """Float64 noise of one tensor, the same whenever it is drawn with this `noise_key`.

    NumPy's generator has a state of 128 bits, too many to try, but is no cryptographic one (torch's takes 32 bits of a
    seed); floating point leaks a little (Mironov 2012).
    """
    seed = np.random.SeedSequence(int.from_bytes(hashlib.sha256(f"{key}\0{name}".encode()).digest()))
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    return deviation * torch.from_numpy(drawn)


def noise_key(secret: str, version: int, updates: Iterable[bytes]) -> str:
    """What all noise of a version hangs on: the secret, the version, and every bit of what it is made of.

    The same updates give the same noise: a version that is computed again has the same bits, and tells nothing new.
    With any other updates each tensor's noise is another. The difference of two versions with equal noise would be what
    one client sent, with no noise at all; so nothing that is restored, rolled back or tried again brings noise back.

    Args:
        secret: hexadecimal, known to the coordinator alone: who knows it, and all updates, can take the noise off.
        updates: the `digest` of each client's, in the order of the clients' names.
    """
    key = hmac.new(bytes.fromhex(secret), f"privacy\0{version}".encode(), hashlib.sha256)
    for each in updates:
        key.update(each)
    return key.hexdigest()


def digest(client: str, tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """Of a client's update, by every bit of it; tensors come in the order of their names."""
    whole = hashlib.sha256(client.encode())
    for name, tensor in tensors:
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        whole.update(f"\0{name}\0{len(data)}\0".encode())
        whole.update(data.data)
    return whole.digest()


def fresh_noise(shape: tuple[int, ...], deviation: float) -> Tensor:
    """Float64 noise that nobody can draw again: of the system's own random bytes, by Box and Muller's method."""
    pairs = -(-math.prod(shape) // 2)
    bits = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64).reshape(2, pairs) >> np.uint64(11)
    first, second = (bits + 0.5) * 2.0**-53  # both in (0, 1)
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: math.prod(shape)]
    return deviation * torch.from_numpy(drawn.reshape(shape))


def epsilon_of_site(noise_multipliers: Sequence[float], delta: float) -> float:
    """What releases of one site have cost, each of a change cut to `C` with noise of deviation `z C`; 0 for none.

    Any two data sets of the site are neighbours, so a change is at most `2 C` from another. Gaussian mechanisms of
    noises `z_i / 2` compose to one of noise `z`, with `1 / z^2 = sum_i (2 / z_i)^2`, at every order of Renyi's
    divergence.
    """
    if not noise_multipliers:
        return 0.0
    return epsilon(1 / math.sqrt(sum((2 / each) ** 2 for each in noise_multipliers)), 1, delta)


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """What `rounds` rounds have cost, by the moments of Renyi's divergence (Mironov 2017), as Opacus computes it.

    Every client is counted as if it had been in every round: no gain by sampling is claimed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional parts, at the import
        from opacus.accountants.analysis import rdp  # type: ignore[import-untyped]  # takes seconds

        spent = rdp.compute_rdp(q=1.0, noise_multiplier=noise_multiplier, steps=rounds, orders=ORDERS)
        return float(rdp.get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)[0])
