"""Splitting one data set into shards that do not look alike, for simulations, benchmarks and the demo."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from fedgalore.seeding import derive_seed

ATTEMPTS = 1000


def dirichlet(
    labels: Sequence[Hashable], clients: int, alpha: float, seed: int, min_examples: int = 1
) -> list[list[int]]:
    """Label skew: each class is spread over the clients by a draw from Dirichlet(`alpha`) (Hsu, Qi, Brown 2019).

    The smaller `alpha`, the fewer classes a client has. Drawn again until each client has `min_examples`.

    Returns:
        For each client the ascending indices into `labels`; every index belongs to exactly one client.

    Raises:
        ValueError: fewer examples than `clients * min_examples`, or no draw in a thousand was fit.
    """
    if clients < 1 or alpha <= 0:
        raise ValueError("clients must be at least 1 and alpha above 0")
    if len(labels) < clients * min_examples:
        raise ValueError(f"{len(labels)} examples are too few for {clients} clients with at least {min_examples} each")
    generator = np.random.default_rng(derive_seed(seed, "dirichlet", clients, repr(alpha)))
    classes = sorted(set(labels), key=repr)
    members = {name: [i for i, label in enumerate(labels) if label == name] for name in classes}
    for _ in range(ATTEMPTS):
        shards: list[list[int]] = [[] for _ in range(clients)]
        for name in classes:
            order = generator.permutation(members[name])
            shares = generator.dirichlet(np.full(clients, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(order)).astype(int)
            for shard, part in zip(shards, np.split(order, cuts), strict=True):
                shard.extend(int(index) for index in part)
        if min(map(len, shards)) >= min_examples:
            return [sorted(shard) for shard in shards]
    raise ValueError(
        f"no Dirichlet({alpha}) split gave each of {clients} clients {min_examples} examples; "
        "raise alpha or take fewer clients"
    )
