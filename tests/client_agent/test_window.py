"""How much of an upload is under way, on lines of any speed."""

from __future__ import annotations

import pytest

from client_agent.window import LEAST_BYTES, MOST_BYTES, Window


def upload(size: int, bytes_per_s: float, delay_s: float, window: Window) -> tuple[float, list[int]]:
    """Sends `size` bytes over a line; seconds that it took, and the bytes under way at each acknowledgement."""
    now, free_at, sent, acknowledged = 0.0, 0.0, 0, 0
    arrivals: list[tuple[float, int]] = []  # when each chunk's acknowledgement is here, and its end
    under_way = []
    while acknowledged < size:
        while sent < size and (chunk := min(window.next_chunk, size - sent)):
            sent += chunk
            window.sent(chunk, now)
            free_at = max(now, free_at) + chunk / bytes_per_s
            arrivals.append((free_at + delay_s, sent))
        now, acknowledged = arrivals.pop(0)
        under_way.append(sent - acknowledged)
        window.acknowledged(acknowledged, now)
    return now, under_way


@pytest.mark.parametrize("bytes_per_s", [1_000, 5_000, 50_000, 1_000_000])
def test_a_slow_line_holds_a_few_seconds_and_stays_full(bytes_per_s: float) -> None:
    size = int(120 * bytes_per_s)
    took_s, under_way = upload(size, bytes_per_s, 0.05, Window(0))
    assert max(under_way[len(under_way) // 2 :]) <= max(LEAST_BYTES, 4 * bytes_per_s)
    assert took_s < 1.1 * 120


def test_a_fast_line_is_filled_soon() -> None:
    took_s, under_way = upload(100 * 2**20, 1e9, 0.05, Window(0))
    assert MOST_BYTES / 2 < max(under_way) <= MOST_BYTES
    assert took_s < 1.5
