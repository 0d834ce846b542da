"""`python -m coordinator [--config FILE]`; the rest comes from the environment. Flags: `fedgalore coordinator`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coordinator import server
from coordinator.settings import load
from fedgalore.process.settings import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Runs a coordinator; the exit status is 2 for bad settings and 1 when it cannot start or go on."""
    parser = argparse.ArgumentParser(prog="python -m coordinator", description="Runs a FedGaLore coordinator.")
    parser.add_argument("--config", type=Path, help="YAML file of settings; the environment goes before it")
    try:
        settings = load(parser.parse_args(arguments).config)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        server.run(settings)
    except server.CoordinatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
