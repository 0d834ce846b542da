"""Which examples a client trains on, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from fedgalore.data.examples import Example
from fedgalore.maths.seeding import derive_seed
from fedgalore.spec.job import JobSpec

GROUPED_BATCHES = 8  # among which `group_by_length` sorts


def batches(examples: Sequence[Example], spec: JobSpec, client: str, round_number: int) -> Iterator[list[Example]]:
    """`local.steps` batches of one round: passes over the shard, each in an order of its own.

    Depends on the job's seed, the client and the round alone, so a restarted agent draws the same batches.
    """
    generator = torch.Generator().manual_seed(derive_seed(spec.seed, "batches", client, round_number))
    size = spec.local.batch_size
    order: list[int] = []
    ready: list[list[int]] = []
    for _ in range(spec.local.steps):
        while not ready:
            order += torch.randperm(len(examples), generator=generator).tolist()
            full = len(order) - len(order) % size
            ready, order = _cut(order[:full], examples, spec, generator), order[full:]
        yield [examples[index] for index in ready.pop(0)]


def _cut(order: list[int], examples: Sequence[Example], spec: JobSpec, generator: torch.Generator) -> list[list[int]]:
    """A multiple of `batch_size` indices as batches; with `group_by_length` of like lengths, in mixed order."""
    size = spec.local.batch_size
    if not spec.local.group_by_length:
        return [order[start : start + size] for start in range(0, len(order), size)]
    cut: list[list[int]] = []
    for start in range(0, len(order), GROUPED_BATCHES * size):
        window = sorted(order[start : start + GROUPED_BATCHES * size], key=lambda index: text_length(examples[index]))
        batches = [window[first : first + size] for first in range(0, len(window), size)]
        cut += [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
    return cut


def micro_batches(batch: Sequence[Example], size: int | None) -> list[Sequence[Example]]:
    """A batch in as few parts of at most `size` examples as it takes, alike in number; None: in one."""
    parts = 1 if size is None else -(-len(batch) // size)
    cuts = [part * len(batch) // parts for part in range(parts + 1)]
    return [batch[start:end] for start, end in pairwise(cuts)]


def text_length(example: Example) -> int:
    """Characters of an example's texts."""
    texts = [example.get(key) or "" for key in ("text", "text_pair", "prompt", "completion")]
    texts += [*example.get("tokens", ()), *example.get("columns", {}).values()]
    texts += [message["content"] for message in example.get("messages", ())]
    return sum(map(len, texts))


def by_length(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """All examples once, in batches of like lengths: less is padded."""
    order = sorted(range(len(examples)), key=lambda index: text_length(examples[index]))
    for start in range(0, len(order), size):
        yield [examples[index] for index in order[start : start + size]]
