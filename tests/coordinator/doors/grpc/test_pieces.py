"""Messages of a download grow on a line that takes them at once."""

import pytest

from coordinator.doors.grpc.pieces import QUICK_S, next_piece
from protos import CHUNK_BYTES, PIECE_BYTES


@pytest.mark.parametrize(
    ("piece", "took_s", "wanted"),
    [
        (PIECE_BYTES, 0.01, 2 * PIECE_BYTES),
        (CHUNK_BYTES // 2, 0.01, CHUNK_BYTES),
        (CHUNK_BYTES, 0.01, CHUNK_BYTES),
        (CHUNK_BYTES, QUICK_S, PIECE_BYTES),  # a line that has become slow
        (PIECE_BYTES, 30.0, PIECE_BYTES),
    ],
)
def test_messages_grow_on_a_quick_line_up_to_a_chunk(piece, took_s, wanted):
    assert next_piece(piece, took_s) == wanted
