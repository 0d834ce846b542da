"""MkDocs calls this file while it builds the site (`hooks` of mkdocs.yml): pages written for a code host fit it.

- Pages that lie outside of docs/ become pages of the site, and other files that a page links to are copied into it.
- Nested lists get the four blanks of indentation that Python-Markdown asks for.
- A Mermaid state diagram becomes a table: its script would come from the network, and a table can be read aloud.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Where a page of the repository is on the site, if that is not its place below docs/.
MOVED = {
    "README.md": "OVERVIEW.md",  # the home is docs/README.md
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "examples/README.md": "EXAMPLES.md",
    "examples/own_method/README.md": "OWN_METHOD.md",
}
ADDED = {there: here for here, there in MOVED.items()}
FILES = "files"  # the site's folder of copied files
_FENCE = re.compile(r"^(?P<fence> *```).*?^(?P=fence)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_DIAGRAM = re.compile(r"^```mermaid\nstateDiagram-v2\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_MOVE = re.compile(r"^ *(?P<before>\w+) --> (?P<after>\w+): (?P<events>.+)$", re.MULTILINE)
_NESTED = re.compile(r"^ {2,3}(?=\S)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings have the same anchors as on GitHub."""
    from pymdownx.slugs import slugify

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere, and what all pages link to."""
    from mkdocs.structure.files import File

    for there, here in ADDED.items():
        files.append(File.generated(config, there, abs_src_path=str(ROOT / here)))
    copied = {path for file in files.documentation_pages() for path in _copied(_source(file.src_uri))}
    for path in sorted(copied):
        files.append(File.generated(config, f"{FILES}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page as Python-Markdown and the site want it."""
    return fitted(markdown, _source(page.file.src_uri))


def fitted(markdown: str, source: PurePosixPath) -> str:
    """The text of the page at `source`, a path from the repository's root, for the site."""
    here = PurePosixPath(address(source) or "")

    def moved(match: re.Match[str]) -> str:
        target = _target(match["target"], source)
        there = target and address(target)
        if not there:
            return match[0]
        return f"]({os.path.relpath(there, here.parent)}{match['anchor'] or ''})"

    def outside_code(text: str) -> str:
        return _NESTED.sub("    ", _LINK.sub(moved, text))

    return _between(_FENCE, outside_code, _DIAGRAM.sub(lambda match: table(match["lines"]), markdown))


def table(lines: str) -> str:
    """The moves of a state diagram as the rows of a table."""
    rows = [f"| {move['before']} | {move['events']} | {move['after']} |" for move in _MOVE.finditer(lines)]
    return "\n".join(["", "| from | by | to |", "|---|---|---|", *rows, ""])


def address(path: PurePosixPath) -> str | None:
    """Where the site has a file of the repository; None for what it does not have: folders without a page."""
    if str(path) in MOVED:
        return MOVED[str(path)]
    if path.parts[0] == "docs":
        return str(path.relative_to("docs"))
    if (ROOT / path).is_dir():
        return address(path / "README.md") if (ROOT / path / "README.md").is_file() else None
    return f"{FILES}/{path}"


def _copied(source: PurePosixPath) -> Iterator[PurePosixPath]:
    """The files that the page links to and that are no part of the site by themselves."""
    text = _FENCE.sub("", (ROOT / source).read_text(encoding="utf-8"))
    for match in _LINK.finditer(text):
        target = _target(match["target"], source)
        if target and (address(target) or "").startswith(f"{FILES}/"):
            yield target


def _source(src_uri: str) -> PurePosixPath:
    return PurePosixPath(ADDED.get(src_uri, f"docs/{src_uri}"))


def _target(link: str, source: PurePosixPath) -> PurePosixPath | None:
    """What a link leads to, from the repository's root; None for other sites."""
    if "://" in link:
        return None
    return PurePosixPath(os.path.normpath(source.parent / link))


def _between(pattern: re.Pattern[str], change: Callable[[str], str], text: str) -> str:
    """The text with everything changed but what the pattern matches."""
    parts, end = [], 0
    for match in pattern.finditer(text):
        parts += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(text[end:])])
