"""The sample that is evaluated: fair, the same at every round, of every class."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgalore.data.sample import evaluated, stratified
from tests.fedgalore.conftest import classifier, language_model


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=60), st.data())
def test_each_class_has_its_share_to_within_one(keys: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(keys)))
    chosen = stratified(keys, count, seed=3)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen == sorted(chosen) == stratified(keys, count, seed=3)
    held, drawn = Counter(keys), Counter(keys[index] for index in chosen)
    assert all(abs(drawn[key] - held[key] * count / len(keys)) < 1 for key in held)


def test_every_example_has_the_same_chance() -> None:
    keys = ["a"] * 9 + ["b"] * 3
    drawn = Counter(index for seed in range(4000) for index in stratified(keys, 4, seed))
    assert set(drawn) == set(range(12))
    assert all(1200 < times < 1470 for times in drawn.values())  # 1333, give or take five deviations


def test_a_folder_that_is_sorted_by_class_is_sampled_from_each() -> None:
    examples = [{"row": row, "text": "x", "text_pair": None, "label": row // 50} for row in range(100)]
    spec = classifier(evaluation={"max_examples": 10})
    chosen = evaluated(examples, spec)
    assert Counter(example["label"] for example in chosen) == {0: 5, 1: 5}
    assert [example["row"] for example in chosen] == sorted(example["row"] for example in chosen)
    assert evaluated(examples, spec) == chosen == evaluated(chosen, spec)
    one_more = {example["row"] for example in evaluated(examples, classifier(evaluation={"max_examples": 11}))}
    assert len(one_more & {example["row"] for example in chosen}) < 6  # or their losses would differ by one example's
    assert evaluated(examples, classifier(evaluation={"max_examples": 10}, seed=1)) != chosen


@pytest.mark.parametrize("limit", [None, 4, 5])
def test_without_a_limit_that_bites_all_are_evaluated(limit: int | None) -> None:
    examples = [{"row": row, "prompt": "a", "completion": "b"} for row in range(4)]
    assert evaluated(examples, language_model(evaluation={"max_examples": limit})) is examples


def test_labels_of_every_shape_are_sampled() -> None:
    labels = [[1, 2], [], "a", 0.5, True, None]
    examples = [{"row": row, "label": label} for row, label in enumerate(labels * 2)]
    chosen = evaluated(examples, classifier(evaluation={"max_examples": 6}))
    assert sorted(repr(example["label"]) for example in chosen) == sorted(map(repr, labels))
