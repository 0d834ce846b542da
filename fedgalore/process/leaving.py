"""How a process that has loaded much ends at once."""

from __future__ import annotations

import atexit
import gc


def end_at_once() -> None:
    """Spares the interpreter the search for cycles as it ends: 1.4 s of a processor in torch and transformers."""
    atexit.register(gc.freeze)
