"""The pages: links lead somewhere, files that they name exist, examples are documents that the code reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from client_agent.policy import Policy
from client_agent.settings import load
from coordinator import settings as coordinator_settings
from fedgalore.spec.documents import read_yaml
from fedgalore.spec.job import JobSpec, parse
from fedgalore.spec.model import Problem, TaskName

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
FOLDERS = (
    "benchmarks",
    "client_agent",
    "coordinator",
    "deploy",
    "docs",
    "examples",
    "fedgalore",
    "fedgalore_cli",
    "protos",
    "tests",
)
NAMED_FILE = re.compile(rf"`(?P<path>(?:{'|'.join(FOLDERS)}|tools)/[\w./-]*)`")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page ends in, by GitHub's rule."""
    plain = (re.sub(r"[^\w\- ]", "", match["title"].lower()) for match in HEADING.finditer(prose(page)))
    return {title.replace(" ", "-") for title in plain}


def examples(page: str, language: str = "yaml") -> list[str]:
    """The page's blocks of this language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [match["text"] for match in FENCE.finditer(text) if match["language"] == language]


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for match in LINK.finditer(prose(page)):
        target = match["target"]
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(file), f"{target}: there is no such heading"


@every_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    for match in NAMED_FILE.finditer(prose(page)):
        assert (ROOT / match["path"]).exists(), f"{match['path']}: there is no such file"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_every_page_is_linked_from_the_readme_or_an_index() -> None:
    indexes = [ROOT / name for name in ("README.md", "docs/README.md", "docs/decisions/README.md")]
    linked = {
        (index.parent / match["target"].partition("#")[0]).resolve()
        for index in indexes
        for match in LINK.finditer(prose(index))
    }
    assert [page for page in PAGES if page not in {*linked, ROOT / "README.md"}] == []


def test_the_index_of_decisions_has_their_numbers_and_titles() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    for number, page in enumerate(sorted((ROOT / "docs/decisions").glob("[0-9]*.md")), start=1):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix(f"# {number}. ")
        assert f"| [{number}]({page.name}) | {title} |" in index


@pytest.mark.parametrize("text", examples("docs/JOBS.md") + examples("README.md"), ids=lambda text: text.split("\n")[0])
def test_an_example_of_a_job_is_a_job(text: str) -> None:
    assert isinstance(parse(read_yaml(text)), JobSpec)


def test_there_is_an_example_of_each_kind_of_job() -> None:
    jobs = [parse(read_yaml(text)) for text in examples("docs/JOBS.md")]
    assert {job.model.task for job in jobs} == set(get_args(TaskName))
    assert {job.model.problem_type for job in jobs} == {None, *get_args(Problem)}
    assert any(job.local.class_weights for job in jobs)
    assert any(job.privacy for job in jobs)
    assert any(job.server.is_robust for job in jobs)


def test_the_page_of_sites_has_a_valid_config_and_every_rule_of_the_policy(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("".join(examples("docs/SITES.md")), encoding="utf-8")
    agent = load(tmp_path / "agent.yaml")
    assert (agent.policy.least_clients, agent.protection and agent.protection.epsilon) == (5, 8)
    table = prose(ROOT / "docs/SITES.md").split("| rule |", 1)[1].split("\n\n", 1)[0]
    told = {
        rule for row in table.splitlines() for rule in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert told == set(Policy.model_fields)


def test_the_examples_of_configs_are_valid(tmp_path: Path) -> None:
    agent, coordinator = (tmp_path / name for name in ("agent.yaml", "coordinator.yaml"))
    for config, text in zip((agent, coordinator), examples("docs/DATA.md"), strict=True):
        config.write_text(text, encoding="utf-8")
    assert load(agent).data["photos"].train == tmp_path / "photos" / "train"
    assert set(coordinator_settings.load(coordinator).held_out) == {"archive"}
