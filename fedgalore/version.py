"""What this release is called, and what agents and coordinators of different releases must agree on."""

from __future__ import annotations

__version__ = "0.1.0"
PROTOCOL_VERSION = 4
OLDEST_PROTOCOL_VERSION = 4  # that is spoken yet: that of the release before, so that both can be upgraded one by one


def common_protocol(newest: int, oldest: int) -> int | None:
    """The newest protocol version that this release shares with another one.

    Args:
        newest: that the other one speaks.
        oldest: that it speaks; 0 where it does not say, and speaks `newest` alone.

    Returns:
        None: there is none.
    """
    common = min(newest, PROTOCOL_VERSION)
    return common if common >= max(oldest or newest, OLDEST_PROTOCOL_VERSION) else None


def protocols(newest: int, oldest: int) -> str:
    """What speaks these versions, for people: `4`, or `4 to 5`."""
    return f"{oldest} to {newest}" if 0 < oldest < newest else str(newest)
