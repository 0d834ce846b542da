"""What the site makes of pages that are written for a code host."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
import yaml

from tools.site import ADDED, address, fitted

ROOT = Path(__file__).resolve().parents[2]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in pages(entry)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("docs/JOBS.md", "DATA.md#labels", "DATA.md#labels"),
        ("docs/JOBS.md", "../CONTRIBUTING.md#add-a-method", "CONTRIBUTING.md#add-a-method"),
        ("docs/decisions/0007-redis-alone.md", "../KILLS.md", "../KILLS.md"),
        ("docs/RESULTS.md", "../benchmarks/results/math-by-source.png", "files/benchmarks/results/math-by-source.png"),
        ("docs/decisions/README.md", "../../README.md", "../OVERVIEW.md"),
        ("CHANGELOG.md", "docs/SITES.md", "SITES.md"),
        ("CHANGELOG.md", "docs/decisions/README.md", "decisions/README.md"),
        ("examples/README.md", "galore_optimizer.py", "files/examples/galore_optimizer.py"),
        ("docs/README.md", "../examples/README.md", "EXAMPLES.md"),
        ("docs/KILLS.md", "https://flower.ai", "https://flower.ai"),
        ("docs/JOBS.md", "#privacy", "#privacy"),
    ],
)
def test_links_lead_to_the_same_place(page: str, link: str, there: str) -> None:
    assert fitted(f"see [it]({link}).", PurePosixPath(page)) == f"see [it]({there})."


def test_code_stays_as_it_is() -> None:
    text = "```python\n  rows[0](../CONTRIBUTING.md)\n```\n"
    assert fitted(text, PurePosixPath("docs/JOBS.md")) == text


def test_nested_lists_are_indented_by_four_blanks() -> None:
    assert fitted("1. one\n\n   - two\n", PurePosixPath("docs/JOBS.md")) == "1. one\n\n    - two\n"


def test_a_state_diagram_is_a_table_of_its_moves() -> None:
    text = "```mermaid\nstateDiagram-v2\n    [*] --> IDLE\n    IDLE --> BUSY: Offered, Asked\n    BUSY --> [*]\n```\n"
    rows = fitted(text, PurePosixPath("docs/ARCHITECTURE.md")).strip().splitlines()
    assert rows == ["| from | by | to |", "|---|---|---|", "| IDLE | Offered, Asked | BUSY |"]


def test_every_page_is_in_the_navigation_once() -> None:
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages(NAV)) == sorted(written | ADDED.keys())


def test_a_folder_without_a_page_has_no_place() -> None:
    assert address(PurePosixPath("benchmarks/results")) is None
