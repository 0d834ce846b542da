"""What is registered for a process's end runs, without a search for cycles; a thread that hangs keeps none alive."""

from __future__ import annotations

import subprocess
import sys

from fedgalore.process.leaving import HUNG

SCRIPT = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
from fedgalore.process.leaving import end_at_once
end_at_once()
"""


def test_a_process_that_ends_looks_at_no_object_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


HANGS = """
import asyncio, time
from fedgalore.process.leaving import end_within

async def main():
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, time.sleep, 600)
    end_within(0.2)

asyncio.run(main())
"""


def test_a_thread_that_hangs_keeps_no_process_that_is_to_stop() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert done.returncode == HUNG
    assert "stop_forced" in done.stdout + done.stderr
