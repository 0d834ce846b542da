"""What time it is, for deadlines and presence."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Seconds since the epoch as they were at the start, and those that have passed since.

    A machine's clock that is set forward must not end every round at once, and set back it must not hold them up.
    """
    ahead = time.time() - time.monotonic()
    return lambda: ahead + time.monotonic()
