"""Entities as tags of words tell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgalore.spec.tags import entity_types, misread, spans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-PER I-PER O B-ORG", [("PER", 0, 2), ("ORG", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-PER", [("PER", 0, 2), ("PER", 3, 4)]),  # IOB: a B is only between neighbours
        ("B-PER I-ORG", [("PER", 0, 1), ("ORG", 1, 2)]),
        ("S-PER B-ORG I-ORG E-ORG I-ORG", [("PER", 0, 1), ("ORG", 1, 4), ("ORG", 4, 5)]),
        ("U-PER B-ORG L-ORG", [("PER", 0, 1), ("ORG", 1, 3)]),
        ("PER PER O ORG", [("PER", 0, 2), ("ORG", 3, 4)]),
        ("B I O B", [("entity", 0, 2), ("entity", 3, 4)]),
        ("B-GEO-political I-GEO-political", [("GEO-political", 0, 2)]),
        ("", []),
    ],
)
def test_entities_are_read_whole(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == set(expected)


@given(st.lists(st.sampled_from([("PER", 1), ("PER", 3), ("ORG", 2), ("", 1)]), max_size=12))
def test_any_row_of_entities_is_found_again_in_each_scheme(row: list[tuple[str, int]]) -> None:
    expected, iob2, bioes, at = set(), [], [], 0
    for kind, length in row:
        if not kind:
            iob2, bioes = [*iob2, "O"], [*bioes, "O"]
        else:
            expected.add((kind, at, at + length))
            iob2 += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
            bioes += [f"S-{kind}"] if length == 1 else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"E-{kind}"]
        at += length
    assert spans(iob2) == spans(bioes) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O PER-B PER-I", ("PER-B", "PER-I")),
        ("O B_PER I_PER B-ORG", ("B_PER", "I_PER")),
        ("O b-per i-per", ("b-per", "i-per")),
        ("O PER.B PER.M PER.E", ("PER.B", "PER.M", "PER.E")),
        ("O vitamin-B vitamin-E", ()),
        ("O B-vitamin-B I-vitamin-B B-vitamin-I", ()),
        ("O B I S-PER PER", ()),
    ],
)
def test_tags_that_are_written_otherwise_are_known(tags: str, expected: tuple[str, ...]) -> None:
    assert misread(tags.split()) == expected


def test_types_are_those_of_the_tags() -> None:
    assert entity_types(["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]) == ("PER", "ORG")
