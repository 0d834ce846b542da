"""Packing: several examples share a row of a batch, so that less of it is padding."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedgalore.model.inputs import IGNORED, Batch

Row = list[int]  # which examples of the batch it holds
# Tokens of a row whose attention costs about as much as all else: six times the width of a model. Measured for a width
# of 576 on a CPU: 3800.
LONG = 4096


def packed(batch: Batch, most: int) -> Batch:
    """A decoder's batch in the rows that take the least work, as `in_rows` has them.

    Args:
        batch: `input_ids`, `attention_mask`, `labels`: `(examples, length)`, int64, padded on the right.
        most: tokens that a row may have.
    """
    return in_rows(batch, rows_of(batch["attention_mask"].sum(1).tolist(), most))


def in_rows(batch: Batch, rows: Sequence[Row]) -> Batch:
    """`input_ids`, `position_ids`, `labels`: `(rows, length of the longest)`, int64, padded on the right.

    Positions begin anew with each example. By that, where there is no `attention_mask`, transformers keeps attention
    within an example. The first token of each is predicted from nothing; its label is ignored.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    labels = batch["labels"].clone()
    labels[:, 0] = IGNORED
    positions = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)

    def joined(values: Tensor, padding: int = 0) -> Tensor:
        parts = [torch.cat([values[example, : lengths[example]] for example in row]) for row in rows]
        return pad_sequence(parts, batch_first=True, padding_value=padding)

    return {
        "input_ids": joined(batch["input_ids"]),
        "position_ids": joined(positions),
        "labels": joined(labels, IGNORED),
    }


def rows_of(lengths: Sequence[int], most: int) -> list[Row]:
    """Examples of these lengths in rows of at most `most` tokens, or one each; the same for the same lengths.

    Tried are as few rows as those of the longest example's length would be, and fewer and fewer. Each example, the
    longest first, goes into the row with the fewest tokens.
    """
    best: list[Row] = [[example] for example in range(len(lengths))]
    count = -(-sum(lengths) // max(lengths))
    while count:
        rows = _spread(lengths, count)
        if _longest(lengths, rows) <= most and _work(lengths, rows) < _work(lengths, best):
            best = rows
        count -= max(1, count // 8)
    return best


def _spread(lengths: Sequence[int], count: int) -> list[Row]:
    rows: list[Row] = [[] for _ in range(count)]
    filled = [(0, number) for number in range(count)]  # a heap
    for example in sorted(range(len(lengths)), key=lambda example: -lengths[example]):
        tokens, number = filled[0]
        rows[number].append(example)
        heapreplace(filled, (tokens + lengths[example], number))
    return rows


def _longest(lengths: Sequence[int], rows: Sequence[Row]) -> int:
    return max(sum(lengths[example] for example in row) for row in rows)


def _work(lengths: Sequence[int], rows: Sequence[Row]) -> int:
    """Of a pass, padding included: layers take it by token, attention by pair of tokens."""
    length = _longest(lengths, rows)
    return len(rows) * length * (LONG + length)
