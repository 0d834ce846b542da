"""How much of a chunk a message of a download holds: little on a slow line, where each message is a sign of life."""

from __future__ import annotations

from protos import CHUNK_BYTES, PIECE_BYTES

QUICK_S = 0.5  # a line that takes a chunk sooner takes larger messages: each costs both ends some time


def next_piece(piece_bytes: int, took_s: float) -> int:
    """Bytes of the next chunk's messages, after one that took so long in messages of `piece_bytes`."""
    return min(2 * piece_bytes, CHUNK_BYTES) if took_s < QUICK_S else PIECE_BYTES
