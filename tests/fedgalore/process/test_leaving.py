"""What is registered for a process's end runs, and ends it without a search for cycles."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
from fedgalore.process.leaving import end_at_once
end_at_once()
"""


def test_a_process_that_ends_looks_at_no_object_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
