"""The order in which a client sees its examples."""

from collections import Counter
from itertools import chain

import pytest

from fedgalore.data.batches import batches, micro_batches
from tests.fedgalore.conftest import classifier, sentences


def test_batches_pass_over_the_shard_in_new_orders():
    examples = sentences(10, 0)
    drawn = list(batches(examples, classifier(local={"steps": 6, "batch_size": 5}), "a", 0))
    rows = [e["row"] for e in chain(*drawn)]
    passes = [rows[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(p) == list(range(1, 11)) for p in passes)
    assert len({tuple(p) for p in passes}) == 3


def test_batches_hang_on_seed_client_and_round_alone():
    def rows(seed, client, number):
        spec = classifier(seed=seed, local={"steps": 3, "batch_size": 4})
        return [e["row"] for e in chain(*batches(sentences(30, 0), spec, client, number))]

    assert rows(0, "a", 0) == rows(0, "a", 0)
    different = [rows(0, "a", 0), rows(1, "a", 0), rows(0, "b", 0), rows(0, "a", 1)]
    assert len({tuple(r) for r in different}) == 4


def test_a_shard_smaller_than_a_batch_is_repeated():
    (batch,) = batches(sentences(3, 0), classifier(local={"steps": 1, "batch_size": 7}), "a", 0)
    assert len(batch) == 7
    assert max(Counter(e["row"] for e in batch).values()) == 3


def test_like_lengths_come_in_the_same_batch_and_every_example_once_a_pass():
    examples = [{"row": i, "text": "x" * (i * 7 % 40 + 1), "text_pair": None, "label": 0} for i in range(64)]
    local = {"steps": 8, "batch_size": 8}
    plain, grouped = (
        list(batches(examples, classifier(local={**local, "group_by_length": on}), "a", 1)) for on in (False, True)
    )
    for drawn in (plain, grouped):
        assert sorted(e["row"] for batch in drawn for e in batch) == list(range(64))

    def padding(drawn):
        return sum(max(len(e["text"]) for e in batch) * len(batch) for batch in drawn) - sum(
            len(e["text"]) for e in examples
        )

    assert padding(grouped) < 0.4 * padding(plain)
    lengths = [len(batch[0]["text"]) for batch in grouped]
    assert lengths != sorted(lengths)  # batches are mixed again
    assert grouped == list(batches(examples, classifier(local={**local, "group_by_length": True}), "a", 1))


def test_batches_larger_than_the_shard_take_several_passes():
    examples = sentences(5, 0)
    for on in (False, True):
        spec = classifier(local={"steps": 3, "batch_size": 8, "group_by_length": on})
        drawn = list(batches(examples, spec, "a", 1))
        assert [len(batch) for batch in drawn] == [8, 8, 8]
        counts = [sum(e["row"] == row for batch in drawn for e in batch) for row in range(1, 6)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("size", "parts"), [(None, [7]), (7, [7]), (6, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)])
def test_micro_batches_are_few_and_alike(size, parts):
    cut = micro_batches(sentences(7, 0), size)
    assert [len(part) for part in cut] == parts
    assert list(chain(*cut)) == sentences(7, 0)
