"""`python -m coordinator.aggregator`: the aggregator as a process of its own; settings come from the environment."""

from __future__ import annotations

import sys

from coordinator.aggregator.process import main

if __name__ == "__main__":
    sys.exit(main())
