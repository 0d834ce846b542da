"""Shards of every kind: each index once, skewed by what the kind skews, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgalore.data.partition import by_domain, dirichlet, iid, quantity, split

LABELS = [i % 10 for i in range(1000)]


def skew(shards: list[list[int]]) -> float:
    """Mean over clients of the share of the client's largest class."""
    return float(np.mean([np.bincount([LABELS[i] for i in s], minlength=10).max() / len(s) for s in shards]))


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.sampled_from(["a", "b", 0, 1, 2]), min_size=20, max_size=80),
    clients=st.integers(1, 5),
    alpha=st.sampled_from([0.3, 1.0, 100.0]),
    seed=st.integers(0, 2**62),
)
def test_every_index_belongs_to_a_single_client_in_ascending_order(labels, clients, alpha, seed):
    shards = dirichlet(labels, clients, alpha, seed)
    assert len(shards) == clients
    assert sorted(index for shard in shards for index in shard) == list(range(len(labels)))
    assert all(shard == sorted(shard) and shard for shard in shards)


def test_the_smaller_alpha_the_fewer_classes_a_client_has():
    skews = [np.mean([skew(dirichlet(LABELS, 8, alpha, seed)) for seed in range(5)]) for alpha in (0.05, 0.5, 1e4)]
    assert skews[0] > 0.5 > skews[1] > 0.2 > skews[2]
    assert skews[2] == pytest.approx(0.1, abs=0.03)


def test_shares_differ_between_classes():
    counts = np.array([np.bincount([LABELS[i] for i in s], minlength=10) for s in dirichlet(LABELS, 4, 0.3, 1)])
    assert len({tuple(column) for column in counts.T}) == 10


def test_a_split_hangs_on_its_seed_alone():
    first = dirichlet(LABELS, 5, 0.3, 7)
    assert first == dirichlet(LABELS, 5, 0.3, 7)
    assert first != dirichlet(LABELS, 5, 0.3, 8)


def test_each_client_gets_as_many_examples_as_asked_for():
    assert min(map(len, dirichlet(LABELS, 10, 0.3, 3, min_examples=40))) >= 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((LABELS, 0, 1.0, 0), "clients must be at least 1"),
        ((LABELS, 2, 0.0, 0), "alpha above 0"),
        (([1, 2], 3, 1.0, 0), "2 examples are too few for 3 clients"),
        ((LABELS[:20], 10, 0.001, 0, 2), "raise alpha or take fewer clients"),
    ],
)
def test_impossible_splits_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        dirichlet(*arguments)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet", "quantity", "domain"]),
    examples=st.integers(60, 200),
    clients=st.integers(3, 12),
    alpha=st.floats(0.3, 10),
    seed=st.integers(0, 99),
)
def test_each_kind_gives_every_example_to_a_single_client(kind, examples, clients, alpha, seed):
    keys = [str(i % 3) for i in range(examples)]
    shards = split(kind, keys, clients, alpha, seed)
    assert sorted(index for shard in shards for index in shard) == list(range(examples))
    assert all(shard == sorted(shard) and shard for shard in shards)
    assert len(shards) == clients
    assert split(kind, keys, clients, alpha, seed) == shards


def test_alike_shards_differ_by_a_single_example_at_most():
    assert {len(shard) for shard in iid(103, 10, 0)} == {10, 11}
    assert iid(103, 10, 0) != iid(103, 10, 1)


def test_quantity_skew_grows_as_alpha_falls_and_keeps_the_least():
    sizes = {alpha: sorted(len(shard) for shard in quantity(2000, 10, alpha, 0, 20)) for alpha in (0.1, 100)}
    assert sizes[0.1][0] >= 20
    assert sizes[0.1][-1] > 2 * sizes[100][-1]


def test_each_client_has_a_single_domain_and_shares_it_evenly():
    domains = ["film"] * 30 + ["news"] * 21
    shards = by_domain(domains, 5, 0)
    held = [{domains[index] for index in shard} for shard in shards]
    assert held == [{"film"}, {"news"}, {"film"}, {"news"}, {"film"}]
    assert sorted(len(shard) for shard in shards) == [10, 10, 10, 10, 11]


def test_domains_without_a_client_or_examples_are_refused():
    with pytest.raises(ValueError, match="3 domains need at least as many clients, not 2; take more, or"):
        by_domain(["a", "b", "c"], 2, 0)
    with pytest.raises(ValueError, match="'b' has 1 examples, too few for its 2 clients.*; take fewer clients"):
        by_domain(["a", "a", "b"], 4, 0)
    with pytest.raises(ValueError, match="too few for 4 clients"):
        iid(3, 4, 0)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity", "domain"])
def test_each_kind_keeps_the_least(kind):
    keys = ["a"] * 30 + ["b"] * 30
    assert min(map(len, split(kind, keys, 4, 0.5, 0, 12))) >= 12
    with pytest.raises(ValueError, match="too few for .* clients with at least 16 each; take fewer clients"):
        split(kind, keys, 4, 0.5, 0, 16)
