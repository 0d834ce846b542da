"""Splitting one data set into shards that do not look alike, for simulations, benchmarks and the demo."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from fedgalore.maths.seeding import derive_seed

ATTEMPTS = 1000

Kind = Literal["iid", "dirichlet", "quantity", "domain"]


def split(
    kind: Kind, keys: Sequence[Hashable], clients: int, alpha: float, seed: int, min_examples: int = 1
) -> list[list[int]]:
    """Shards of one of the kinds below; `keys` are the examples' classes, or their domains for kind `domain`.

    Raises:
        ValueError: as the kinds'.
    """
    if kind == "iid":
        return iid(len(keys), clients, seed, min_examples)
    if kind == "domain":
        return by_domain(keys, clients, seed, min_examples)
    if kind == "quantity":
        return quantity(len(keys), clients, alpha, seed, min_examples)
    return dirichlet(keys, clients, alpha, seed, min_examples)


def iid(examples: int, clients: int, seed: int, min_examples: int = 1) -> list[list[int]]:
    """Shards that look alike; their sizes differ by at most one. Returns and raises as `dirichlet`."""
    _check(examples, clients, min_examples)
    order = np.random.default_rng(derive_seed(seed, "iid", clients)).permutation(examples)
    return [sorted(int(index) for index in part) for part in np.array_split(order, clients)]


def quantity(examples: int, clients: int, alpha: float, seed: int, min_examples: int = 1) -> list[list[int]]:
    """Quantity skew: classes mixed alike, shard sizes by a draw from Dirichlet(`alpha`), none below `min_examples`.

    Returns and raises as `dirichlet`.
    """
    _check(examples, clients, min_examples, alpha)
    generator = np.random.default_rng(derive_seed(seed, "quantity", clients, repr(alpha)))
    order = generator.permutation(examples)
    shares = generator.dirichlet(np.full(clients, alpha))
    free = examples - clients * min_examples
    cuts = np.round(np.cumsum(shares)[:-1] * free).astype(int) + min_examples * np.arange(1, clients)
    return [sorted(int(index) for index in part) for part in np.split(order, cuts)]


def by_domain(domains: Sequence[Hashable], clients: int, seed: int, min_examples: int = 1) -> list[list[int]]:
    """Each client has one domain; domains are dealt out in turn, and clients of the same one share it evenly.

    Returns as `dirichlet`.

    Raises:
        ValueError: fewer clients than domains, so that a domain would be left out, or a domain too small to share
            with `min_examples` for each of its clients.
    """
    names = sorted(set(domains), key=repr)
    if clients < len(names):
        raise ValueError(
            f"{len(names)} domains need at least as many clients, not {clients}; take more, or leave domains out"
        )
    generator = np.random.default_rng(derive_seed(seed, "domains", clients))
    shards: list[list[int]] = [[] for _ in range(clients)]
    for number, name in enumerate(names):
        holders = range(number, clients, len(names))
        members = [index for index, domain in enumerate(domains) if domain == name]
        if len(members) < len(holders) * min_examples:
            raise ValueError(
                f"domain {name!r} has {len(members)} examples, too few for its {len(holders)} clients "
                f"with at least {min_examples} each; take fewer clients, or leave the domain out"
            )
        parts = np.array_split(generator.permutation(members), len(holders))
        for client, part in zip(holders, parts, strict=True):
            shards[client] = sorted(int(index) for index in part)
    return shards


def _check(examples: int, clients: int, min_examples: int, alpha: float = 1.0) -> None:
    if clients < 1 or alpha <= 0:
        raise ValueError("clients must be at least 1 and alpha above 0")
    if examples < clients * min_examples:
        raise ValueError(
            f"{examples} examples are too few for {clients} clients with at least {min_examples} each; "
            "take fewer clients"
        )


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
    _check(len(labels), clients, min_examples, alpha)
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
