"""Draws the pictures of docs/CONCEPTS.md, from what the project's own code computes and does.

`python -m benchmarks.pictures` draws all of them, in minutes; names draw some. The model is the demo's MiniLM, the
texts are the demo's, at four unlike sites.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.pictures import gradients, kill, shared, wire

TO = Path(__file__).resolve().parents[2] / "docs" / "pictures"
PICTURES: dict[str, Callable[[Path], None]] = {
    "gradients": gradients.draw,
    "shared": shared.draw,
    "wire": wire.draw,
    "kill": kill.draw,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; default: all")
    parser.add_argument("--to", type=Path, default=TO, help="folder (%(default)s)")
    options = parser.parse_args()
    if unknown := set(options.names) - PICTURES.keys():
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; known: {', '.join(PICTURES)}")
    options.to.mkdir(parents=True, exist_ok=True)
    for name in options.names or PICTURES:
        PICTURES[name](options.to / f"{name}.svg")


if __name__ == "__main__":
    main()
