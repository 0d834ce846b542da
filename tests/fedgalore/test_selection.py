"""Cohorts and seeds: functions of names and numbers, not of order."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgalore.maths.seeding import derive_seed
from fedgalore.selection import choose_cohort

NAMES = [f"site-{i}" for i in range(12)]
names = st.sets(st.text("abcde", min_size=1, max_size=4), min_size=1, max_size=15)


@settings(max_examples=50, deadline=None)
@given(names=names, size=st.integers(1, 20), seed=st.integers(0, 2**62), number=st.integers(0, 50), data=st.data())
def test_a_cohort_is_a_sorted_sample_whatever_the_order_of_names(names, size, seed, number, data):
    cohort = choose_cohort(names, size, seed, number)
    assert cohort == tuple(sorted(set(cohort)))
    assert set(cohort) <= names
    assert len(cohort) == min(size, len(names))
    assert choose_cohort(data.draw(st.permutations(sorted(names))), size, seed, number) == cohort


@settings(max_examples=50, deadline=None)
@given(names=names, size=st.integers(1, 10), newcomer=st.text("xyz", min_size=1, max_size=3))
def test_a_client_that_joins_or_leaves_changes_a_single_place_at_most(names, size, newcomer):
    before = set(choose_cohort(names, size, 0, 0))
    after = set(choose_cohort(names | {newcomer}, size, 0, 0))
    assert len(before - after) <= 1
    assert after - before <= {newcomer}


def test_rounds_and_seeds_choose_anew_and_treat_clients_alike():
    cohorts = [choose_cohort(NAMES, 4, 0, number) for number in range(600)]
    assert len(set(cohorts)) > 200
    counts = Counter(name for cohort in cohorts for name in cohort)
    assert all(count == pytest.approx(200, abs=50) for count in counts.values())
    assert cohorts[:20] != [choose_cohort(NAMES, 4, 1, number) for number in range(20)]


@settings(max_examples=50, deadline=None)
@given(names=names, size=st.integers(1, 20), last=names, tries=st.integers(0, 3))
def test_who_comes_last_fills_what_the_others_leave(names, size, last, tries):
    cohort = choose_cohort(names, size, 0, 1, tries, last)
    assert len(cohort) == min(size, len(names))
    assert len(set(cohort) - last) == min(size, len(names - last))


def test_each_try_draws_anew():
    assert len({choose_cohort(NAMES, 4, 0, version, tries) for version in (1, 2) for tries in range(4)}) == 8


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.text(max_size=5) | st.integers(), max_size=3))
def test_generators_take_a_derived_seed(seed, purpose):
    assert 0 <= derive_seed(seed, *purpose) < 2**63
    assert derive_seed(seed, *purpose) == derive_seed(seed, *purpose)


def test_each_purpose_has_a_separate_seed():
    purposes = [(), ("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), ("a", 1, 1)]
    assert len({derive_seed(seed, *purpose) for purpose in purposes for seed in (0, 1)}) == 2 * len(purposes)
