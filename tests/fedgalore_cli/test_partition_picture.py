"""Who holds what, as counted and as drawn."""

from pathlib import Path

import numpy as np
import pytest

from fedgalore_cli.partition_picture import check_format, counts, draw, figure, in_order

SHARDS = [[0, 2, 3], [1], []]
KEYS = ["a", "b", "b", "a"]


def shards_of(clients: int, classes: int) -> tuple[list[list[int]], list[str]]:
    """Client `i` has `i + 1` examples of each class."""
    shards: list[list[int]] = []
    keys: list[str] = []
    for client in range(clients):
        start = len(keys)
        keys += [f"class {name}" for name in range(classes)] * (client + 1)
        shards.append(list(range(start, len(keys))))
    return shards, keys


def test_each_clients_examples_are_counted_by_class():
    assert counts(SHARDS, KEYS) == [{"a": 2, "b": 1}, {"b": 1}, {}]


def test_classes_stand_in_the_order_of_their_numbers():
    assert in_order(["10", "9", "10", "x"]) == ["9", "10", "x"]
    assert in_order([3, 20, 3, "x"]) == [3, 20, "x"]
    assert in_order(["site-10", "site-9", "card"]) == ["card", "site-9", "site-10"]


def test_small_pictures_hold_the_numbers():
    cells, totals = figure(SHARDS, KEYS, "three clients").axes
    assert [label.get_text() for label in cells.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in cells.get_yticklabels()] == ["1", "2", "3"]
    shown = {text.get_position(): text.get_text() for text in cells.texts}
    assert shown == {(0, 0): "2", (1, 0): "1", (1, 1): "1"}  # nothing where there is nothing
    assert cells.images[0].get_array().filled(0).tolist() == [[2, 1], [0, 1], [0, 0]]
    assert [bar.get_width() for bar in totals.patches] == [3, 1, 0]
    assert [text.get_text() for text in totals.texts] == ["3", "1", "0"]


@pytest.mark.slow
def test_large_pictures_have_a_colour_bar_and_name_what_they_have_room_for():
    picture = figure(*shards_of(100, 90), "a hundred clients")
    cells, totals, key = picture.axes
    assert not list(cells.texts)
    assert key.get_ylabel() == "examples of a class"
    assert [label.get_text() for label in cells.get_yticklabels()] == [str(n) for n in range(2, 101, 2)]
    assert [label.get_text() for label in cells.get_xticklabels()] == [f"class {n}" for n in range(0, 90, 2)]
    assert cells.images[0].get_array()[:, 7].tolist() == list(range(1, 101))
    assert [text.get_text() for text in totals.texts] == [str(90 * n) for n in range(2, 101, 2)]
    assert max(picture.get_size_inches()) < 15


def overlap(boxes: list) -> bool:
    corners = np.array([[box.x0, box.y0, box.x1, box.y1] for box in boxes])
    first, second = corners[:, None], corners[None]
    apart = (first[..., :2] >= second[..., 2:]).any(-1) | (second[..., :2] >= first[..., 2:]).any(-1)
    return bool((~apart & ~np.eye(len(boxes), dtype=bool)).any())


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "classes"), [(2, 2), (2, 100), (4, 2), (10, 77), (40, 10), (100, 10), (100, 1)])
def test_names_and_numbers_do_not_overlap(clients, classes, tmp_path):
    picture = figure(*shards_of(clients, classes), "split, alpha 0.1, seed 0 " * 3)
    picture.savefig(tmp_path / "a.png")  # lays it out
    first = picture.axes[0]
    for texts in (first.get_xticklabels(), first.get_yticklabels(), first.texts, picture.axes[-1].texts):
        assert not texts or not overlap([text.get_window_extent() for text in texts])
    everything = picture.get_tightbbox()
    assert everything.x0 >= 0 and everything.y0 >= 0
    assert (everything.x1, everything.y1) <= tuple(picture.get_size_inches())


@pytest.mark.parametrize("keys", [None, ["same"] * 4])
def test_without_classes_the_sizes_are_drawn(keys):
    (totals,) = figure(SHARDS, keys, "sizes", clients=["north", "south", "west"]).axes
    assert [bar.get_width() for bar in totals.patches] == [3, 1, 0]
    assert [label.get_text() for label in totals.get_yticklabels()] == ["north", "south", "west"]


def test_domains_long_names_and_signs_of_maths_stand_as_they_are():
    keys = ["$a_{1$", "a long name of a class\nthat is number 1", "a long name of a class\nthat is number 2"]
    cells = figure([[0], [1, 2]], keys, "costs $5 or $6_{", kind="domain").axes[0]
    labels = [label.get_text() for label in cells.get_xticklabels()]
    assert labels == ["$a_{1$", "a long name of a …s number 1", "a long name of a …s number 2"]
    assert cells.get_xlabel() == "domain"


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "starts"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_the_suffix_says_what_is_written(suffix, starts, tmp_path):
    path = tmp_path / "new" / f"picture{suffix}"
    draw(path, SHARDS, KEYS, "costs $5 or $6_{")
    assert path.read_bytes().startswith(starts)
    assert path.stat().st_size > 3000


@pytest.mark.parametrize("name", ["a.gif", "a", "png"])
def test_other_kinds_of_files_are_refused_and_not_written(name, tmp_path):
    for refuse in (check_format, lambda path: draw(path, SHARDS, KEYS, "t")):
        with pytest.raises(ValueError, match=r"ends in none of \.png, \.svg, \.pdf"):
            refuse(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_shards_are_no_picture():
    with pytest.raises(ValueError, match="no shards"):
        draw(Path("a.png"), [], [], "nothing")
