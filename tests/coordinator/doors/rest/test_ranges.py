"""Which part of an answer is asked for, and what a caller has already."""

from __future__ import annotations

import pytest

from coordinator.doors.rest.compact import takes_gzip
from coordinator.doors.rest.ranges import Part, knows, wanted

TAG = '"abc"'
WHOLE = Part(200, 0, 100)


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({}, WHOLE),
        ({"range": "bytes=0-"}, Part(206, 0, 100)),
        ({"range": "bytes=40-"}, Part(206, 40, 100)),
        ({"range": "Bytes=40-49"}, Part(206, 40, 50)),
        ({"range": "bytes=40-1000"}, Part(206, 40, 100)),
        ({"range": "bytes=99-99"}, Part(206, 99, 100)),
        ({"range": "bytes=-30"}, Part(206, 70, 100)),
        ({"range": "bytes=-1000"}, Part(206, 0, 100)),
        ({"range": "bytes=100-"}, Part(416)),
        ({"range": "bytes=-0"}, Part(416)),
        ({"range": "bytes=9-8"}, WHOLE),
        ({"range": "bytes=-"}, WHOLE),
        ({"range": "bytes=0-1,5-6"}, WHOLE),
        ({"range": "pages=1-2"}, WHOLE),
        ({"range": "bytes=40-", "if-range": TAG}, Part(206, 40, 100)),
        ({"range": "bytes=40-", "if-range": '"other"'}, WHOLE),
        ({"range": "bytes=40-", "if-range": f"W/{TAG}"}, WHOLE),
        ({"range": "bytes=40-", "if-range": "Sat, 31 Jan 2026 08:00:00 GMT"}, WHOLE),
        ({"range": "bytes=40-", "if-none-match": TAG}, Part(304)),
        ({"if-none-match": '"other"'}, WHOLE),
    ],
)
def test_a_part_is_sent_of_what_the_caller_began_with(headers: dict[str, str], part: Part) -> None:
    assert wanted(headers, TAG, 100) == part


@pytest.mark.parametrize(
    ("header", "known"),
    [("", False), ("*", True), (TAG, True), (f'"x", W/{TAG}', True), ("abc", False), ('"ab"', False)],
)
def test_tags_are_compared_whole(header: str, known: bool) -> None:
    assert knows(header, TAG) is known
    assert knows(header, f"W/{TAG}") is known


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("", False),
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, br", False),
        ("*", True),
        ("identity", False),
        ("x-gzip", False),
    ],
)
def test_who_does_not_take_gzip_gets_none(header: str, taken: bool) -> None:
    assert takes_gzip(header) is taken
