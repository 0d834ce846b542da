"""When a checkpoint is due, which cuts go on leading to it, and the way of the fewest bytes to a version."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgalore import chain as chains
from fedgalore.chain import Chain, Cut, Earlier, Trail, Way, total_bytes
from fedgalore.process.blob_ref import BlobRef

WHOLE = 100  # bytes of whole weights


def blob(number: int, size_bytes: int) -> BlobRef:
    return BlobRef(f"{number:064x}", size_bytes)


def cut(version: int, size_bytes: int = 30) -> Cut:
    return Cut(version, blob(version, size_bytes))


def weights(version: int) -> BlobRef:
    return blob(1000 + version, WHOLE)


START = Chain.start(weights(0))
FIRST = Trail(Earlier(START.id), START)


def played(*sizes: int) -> list[Trail]:
    """The trails of versions 0, 1, ... made by cuts of these sizes."""
    trails = [FIRST]
    for version, size in enumerate(sizes, start=1):
        step = cut(version, size)
        chain = trails[-1].chain.then(step)
        if chain.is_due:
            chain = chain.ended(version, weights(version))
        trails.append(trails[-1].then(step, chain))
    return trails


def checkpoints(trails: list[Trail]) -> list[int]:
    return [trail.chain.checkpoint.version for trail in trails]


def versions(cuts: tuple[Cut, ...]) -> list[int]:
    return [each.version for each in cuts]


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((30,) * 9, [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]),  # the fourth makes 120
        ((50,) * 4, [0, 0, 2, 2, 4]),  # as large as the weights is large enough
        ((100,) * 3, [0, 1, 2, 3]),  # such as whole matrices: as before, a version is whole
        ((120, 1, 1), [0, 1, 1, 1]),
    ],
)
def test_a_checkpoint_is_due_when_its_cuts_are_as_large_as_the_weights(sizes, wanted):
    assert checkpoints(played(*sizes)) == wanted


def test_many_small_cuts_make_a_checkpoint_due(monkeypatch):
    monkeypatch.setattr(chains, "MOST_CUTS", 3)
    monkeypatch.setattr(chains, "MOST_EARLIER", 4)
    trails = played(*(1,) * 7)
    assert checkpoints(trails) == [0, 0, 0, 3, 3, 3, 6, 6]
    assert versions(trails[6].earlier.cuts) == [3, 4, 5, 6]
    assert trails[6].earlier.start == cut(2).blob.sha256


def test_cuts_that_led_to_a_checkpoint_stay_while_they_are_smaller_than_it():
    trails = played(*(30,) * 8)
    assert versions(trails[4].earlier.cuts) == [2, 3, 4]  # 90 bytes; with the first, 120
    assert trails[4].earlier == trails[7].earlier
    assert versions(trails[8].earlier.cuts) == [6, 7, 8]
    assert [trail.chain.id for trail in trails] == [START.id, *(cut(n).blob.sha256 for n in range(1, 9))]
    (last,) = played(120)[1].earlier.cuts  # never none
    assert last == cut(1, 120)


@pytest.mark.parametrize(
    ("held", "at", "way"),
    [
        (None, 2, Way(True, (cut(1), cut(2)))),
        (0, 2, Way(False, (cut(1), cut(2)))),
        (1, 2, Way(False, (cut(2),))),
        (2, 2, Way(False, ())),
        (3, 6, Way(False, (cut(4), cut(5), cut(6)))),  # across the checkpoint of version 4
        (1, 6, Way(False, tuple(cut(n) for n in range(2, 7)))),  # 90 bytes rather than 100 to the checkpoint
        (0, 6, Way(True, (cut(5), cut(6)))),  # 120 bytes, or 100
        (4, 6, Way(False, (cut(5), cut(6)))),
    ],
)
def test_the_way_is_that_of_the_fewest_bytes(held, at, way):
    trails = played(*(30,) * 6)
    assert trails[at].way(None if held is None else trails[held].chain.id) == way


def test_what_lies_here_costs_nothing():
    trails = played(30, 30, 30, 30, 120)
    here = {cut(n).blob for n in (2, 3, 4)}
    far = trails[4].way(trails[1].chain.id, cost=lambda b: 0 if b in here else b.size_bytes)
    assert (far.whole, versions(far.cuts)) == (False, [2, 3, 4])
    assert trails[5].way(trails[4].chain.id).whole  # 100 bytes, not 120
    assert trails[5].fetched(Way(True, ())) == [weights(5)]
    assert trails[5].fetched(Way(False, (cut(5, 120),))) == [cut(5, 120).blob]


def test_a_blob_is_told_by_the_version_that_it_came_with():
    trail = played(*(30,) * 6)[6]
    made = [trail.made(each.sha256) for each in trail.blobs]
    assert made == [2, 3, 4, 4, 5, 6]
    assert trail.made("f" * 64) is None


@given(st.lists(st.integers(1, 140), min_size=1, max_size=30))
def test_whoever_holds_a_version_comes_to_the_newest_by_at_most_the_bytes_of_a_fresh_start(sizes):
    trails = played(*sizes)
    newest = trails[-1]
    fresh = total_bytes(newest.fetched(newest.way(None)))
    for held, after in pairwise([None, *trails]):
        way = newest.way(held.chain.id if held else None)
        assert total_bytes(newest.fetched(way)) <= fresh
        assert way.cuts == () or way.cuts[-1] == newest.cuts[-1]
        assert after is not None
    assert fresh <= 2 * WHOLE + max(sizes)
    assert newest.earlier.end == newest.chain.checkpoint.id
