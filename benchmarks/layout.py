"""How the code hangs together: files, floors, arrows and circles. `python -m benchmarks.layout [--root CHECKOUT]`.

A file is a module, an arrow an import between two of them. A file stands one floor above the highest that it imports;
files that import each other in a loop make a circle. Wings are the folders right below a package: the second table
takes each as one room. The graph is grimp's, which import-linter checks its contracts on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import grimp

LEFT_OUT = ("tests", "benchmarks", "examples", "tools")

Arrows = dict[str, set[str]]  # room -> rooms that it imports


def main(arguments: list[str] | None = None) -> int:
    """Prints a table of the files and one of the wings, by package."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layout", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="checkout to look at; default: this folder")
    parser.add_argument("--types", action="store_true", help="count imports for types alone too")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    sys.path.insert(0, str(root))
    packages = sorted(path.parent.name for path in root.glob("*/__init__.py") if path.parent.name not in LEFT_OUT)
    files = _arrows(packages, options.types)
    lines = {name: _lines(root, name) for name in files}
    print(f"{'package':<22}{'files':>7}{'floors':>8}{'arrows':>8}{'circles':>9}{'median lines':>14}{'past 300':>10}")
    for package in [*packages, ""]:
        inside = _within(files, package)
        sizes = [lines[name] for name in inside]
        row = f"{package or 'all':<22}{len(inside):>7}{_floors(inside):>8}{_count(inside):>8}{_circles(inside):>9}"
        print(f"{row}{median(sizes):>14.0f}{sum(count > 300 for count in sizes):>10}")
    print(f"\n{'wings of':<22}{'rooms':>7}{'floors':>8}{'arrows':>8}{'circles':>9}")
    for package in [*packages, ""]:
        rooms = _as_rooms(_within(files, package), depth=2 if package else 1)
        name = package or "all, as packages"
        print(f"{name:<22}{len(rooms):>7}{_floors(rooms):>8}{_count(rooms):>8}{_circles(rooms):>9}")
    return 0


def _arrows(packages: list[str], types: bool) -> Arrows:
    """Every module, and what it imports; imports for types alone are counted if `types` says so."""
    graph = grimp.build_graph(*packages, cache_dir=None, exclude_type_checking_imports=not types)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules if not name.endswith("_pb2")}


def _within(files: Arrows, package: str) -> Arrows:
    inside = {name for name in files if not package or name == package or name.startswith(f"{package}.")}
    return {name: files[name] & inside for name in inside}


def _as_rooms(files: Arrows, depth: int) -> Arrows:
    """The graph with each folder of this depth as a room. A file beside the folders is a room as well."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    rooms: Arrows = {room(name): set() for name in files}
    for name, imported in files.items():
        rooms[room(name)] |= {room(other) for other in imported} - {room(name)}
    return rooms


def _count(arrows: Arrows) -> int:
    return sum(map(len, arrows.values()))


def _floors(arrows: Arrows) -> str:
    """The number of floors; `-` where circles leave no order."""
    try:
        order = list(TopologicalSorter(arrows).static_order())
    except CycleError:
        return "-"
    floors: dict[str, int] = {}
    for name in order:
        floors[name] = 1 + max((floors[other] for other in arrows[name]), default=0)
    return str(max(floors.values(), default=0))


def _circles(arrows: Arrows) -> int:
    """The number of circles: sets of rooms in which every room reaches every other."""
    reach = {name: _reached(name, arrows) for name in arrows}
    looped = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in arrows if name in reach[name]
    }
    return len(looped)


def _reached(start: str, arrows: Arrows) -> set[str]:
    reached: set[str] = set()
    ahead: Iterable[str] = arrows[start]
    while ahead := set(ahead) - reached:
        reached |= ahead
        ahead = {other for name in ahead for other in arrows[name]}
    return reached


def _lines(root: Path, name: str) -> int:
    path = root.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return len(file.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main())
