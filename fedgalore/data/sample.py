"""Which of a client's examples are evaluated, where a job limits their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from fedgalore.data import values
from fedgalore.data.examples import Example
from fedgalore.maths.seeding import derive_seed
from fedgalore.spec.job import JobSpec


def evaluated(examples: Sequence[Example], spec: JobSpec) -> Sequence[Example]:
    """At most `evaluation.max_examples` of a client's examples, in their order: a fair sample, the same at every round.

    It hangs on the job's seed, the limit and the examples alone. Samples of n and of n + 1 have no more in common than
    any two, or the difference of two evaluations would be one example. Each label keeps its share, as far as whole
    examples allow.
    """
    most = spec.evaluation.max_examples
    if most is None or len(examples) <= most:
        return examples
    labels = [values.key(example.get("label")) for example in examples]
    return [examples[index] for index in stratified(labels, most, derive_seed(spec.seed, "evaluated", most))]


def stratified(keys: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """`count` ascending indices into `keys`, in which each key is as frequent as in all of them.

    Shares that are no whole numbers are rounded by largest remainder; equal remainders are drawn.
    """
    generator = np.random.default_rng(seed)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    strata = [np.array(indices) for indices in members.values()]
    sizes = np.array([len(stratum) for stratum in strata])
    whole, rest = np.divmod(sizes * count, len(keys))  # in integers: remainders that are equal stay equal
    order = np.lexsort((generator.random(len(strata)), -rest))
    whole[order[: count - int(whole.sum())]] += 1
    chosen = [generator.permutation(stratum)[:share] for stratum, share in zip(strata, whole, strict=True)]
    return sorted(int(index) for index in np.concatenate(chosen))
