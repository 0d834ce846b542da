"""Pieces side by side: their order, their threads, and how many there are at a time."""

import threading
from collections.abc import Iterator

import pytest
import torch

from fedgalore.maths.parallel import in_order, one_thread


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def threads_of_another() -> int:
    """How many threads torch takes in a thread that begins now."""
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_results_come_in_order_and_each_piece_has_one_thread(threads: int) -> None:
    first_may_end = threading.Event()

    def work(piece: int) -> tuple[int, int]:
        if piece == 1:
            first_may_end.set()
        if piece == 0 and threads > 1:
            assert first_may_end.wait(10)  # the second is under way
        return piece, torch.get_num_threads()

    assert list(in_order(work, range(7))) == [(piece, 1) for piece in range(7)]
    assert torch.get_num_threads() == threads
    assert threads_of_another() == threads


def test_what_others_set_meanwhile_gives_no_piece_more_threads(threads: int) -> None:
    were_set = threading.Event()

    def work(piece: int) -> int:
        if piece and threads > 1:
            assert were_set.wait(10)
        return torch.get_num_threads()  # the first that the piece's thread asks for

    results = in_order(work, range(3))
    assert next(results) == 1
    with one_thread():  # as a sink does, and sets the threads back
        pass
    were_set.set()
    assert list(results) == [1, 1]


@pytest.mark.parametrize("at_most", [1, 2, None])
def test_no_more_pieces_are_begun_than_there_is_room_for(threads: int, at_most: int | None) -> None:
    begun: list[int] = []
    for place, piece in enumerate(in_order(lambda piece: begun.append(piece) or piece, range(9), at_most)):
        assert piece == place
        assert len(begun) <= place + min(threads, at_most or threads)


def test_what_a_piece_raises_is_raised_and_the_threads_are_as_before(threads: int) -> None:
    def work(piece: int) -> int:
        if piece == 2:
            raise ValueError("piece 2")
        return piece

    results = in_order(work, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="piece 2"):
        next(results)
    assert torch.get_num_threads() == threads == threads_of_another()
    with pytest.raises(KeyError), one_thread():
        raise KeyError(torch.get_num_threads())
    assert torch.get_num_threads() == threads
