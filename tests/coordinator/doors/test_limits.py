"""How much of a door one caller may take."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from coordinator import descriptors
from coordinator.doors.limits import Places, holder_of
from coordinator.state.errors import Busy


def test_places_are_limited_by_holder_and_in_all() -> None:
    places = Places("calls", 2, "max_calls", in_all=3)
    places.take("a")
    with places.one("a"):
        with pytest.raises(Busy, match=r"calls: a has 2 at a time.*or let the operator raise max_calls"):
            places.take("a")
        places.take("b")
        with pytest.raises(Busy, match="there are 3 at a time"):
            places.take("c")
    places.take("c")  # what was left is free again, and what was refused took nothing


@pytest.mark.parametrize(
    ("host", "holder"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_who_counts_as_one_caller(host: str, holder: str) -> None:
    assert holder_of(host) == holder


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """Of descriptors, lowered for the test and put back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    yield 2000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_as_far_as_it_is_needed(soft_limit: int) -> None:
    assert descriptors.for_a_door(1000) == 1000
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2 * 1000 + descriptors.RESERVE
    assert descriptors.for_a_door(10) == 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2 * 1000 + descriptors.RESERVE  # never lowered


@pytest.mark.parametrize(("allowed", "connections"), [(3024, 1000), (1200, 300), (100, 25)])
def test_where_the_hard_limit_is_low_the_doors_leave_room_for_files(
    monkeypatch: pytest.MonkeyPatch, allowed: int, connections: int
) -> None:
    monkeypatch.setattr(descriptors, "provide", lambda wanted: allowed)
    assert descriptors.for_a_door(4000) == connections
