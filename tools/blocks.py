"""Generated blocks of a page: what stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`.

Everything else on the page is written by hand and stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"
_BLOCK = re.compile(r"<!-- generated: (?P<name>\S+) -->\n.*?<!-- end: (?P=name) -->", re.DOTALL)


class BlockError(ValueError):
    """A page and its generated blocks do not fit each other; the message names the block and the remedy."""


def names(page: str) -> list[str]:
    """The names of a page's blocks, in their order."""
    return [match["name"] for match in _BLOCK.finditer(page)]


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """The page with the new content of these blocks. Content for a block that the page lacks is ignored."""

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in blocks:
            return match[0]
        return f"{BEGIN.format(name)}\n{blocks[name].strip()}\n{END.format(name)}"

    return _BLOCK.sub(replaced, page)


def keep(path: Path, blocks: Mapping[str, str], command: str, *, check: bool) -> int:
    """Fills all blocks of a page, or only compares them. Returns the exit status: 1 if a compared page is stale.

    Args:
        blocks: exactly the page's blocks.
        command: what writes the page; the message about a stale page names it.

    Raises:
        BlockError: the page lacks a block, or has one that nothing fills.
    """
    page = path.read_text(encoding="utf-8")
    present = names(page)
    for name in sorted(blocks.keys() ^ set(present)):
        where = f"{path.name} has no place for block {name!r}; write {BEGIN.format(name)} and {END.format(name)} there"
        raise BlockError(where if name in blocks else f"nothing fills block {name!r} of {path.name}; remove it")
    fresh = filled(page, blocks)
    if fresh == page:
        return 0
    if check:
        print(f"{path.name} is stale; run `{command}` and commit the page", file=sys.stderr)
        return 1
    path.write_text(fresh, encoding="utf-8")
    return 0
