"""The tutorials: their scripts run, their documents are read by the product, their commands and options exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from client_agent.__main__ import agent
from client_agent.data import read_all
from client_agent.policy import of_job
from client_agent.settings import load
from fedgalore.preflight import Split, preflight
from fedgalore.spec.documents import read_yaml
from fedgalore.spec.job import JobSpec, parse
from fedgalore_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
HOSPITALS, CHAT = (ROOT / "docs" / "tutorials" / name for name in ("HOSPITALS.md", "CHAT.md"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(
    r"(?:[Ss]ave (?:this|it) as `(?P<name>[^`]+)`[^\n]*\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
OPTION = re.compile(r"--[a-z][a-z-]*")


def saved(page: Path) -> dict[str, str]:
    """What the tutorial has its reader save, by name."""
    return {block["name"]: block["text"] for block in BLOCK.finditer(page.read_text(encoding="utf-8")) if block["name"]}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each call of `fedgalore` in the page's blocks for a shell."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["language"] == "sh":
            for line in block["text"].replace("\\\n", " ").splitlines():
                for call in re.findall(r"(?:^|[\s(])fedgalore ([^#|&;)>]+)", line):
                    yield shlex.split(call.replace("'", ""))


@cache
def the_command() -> Any:
    return typer.main.get_command(app)


@cache
def the_agents() -> Any:
    """The agent's own parser, to which `fedgalore agent` passes everything on."""
    agents = typer.Typer()
    agents.command()(agent)
    return typer.main.get_command(agents)


def job_of(page: Path) -> JobSpec:
    return parse(read_yaml(saved(page)["job.yaml"].replace("MODEL", "/models/minilm")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        command = the_command()
        rest = list(words)
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            found = command.commands.get(rest.pop(0))
            assert found is not None, f"fedgalore {' '.join(words)}: there is no such command"
            command = found
        if command.name == "agent":
            command = the_agents()
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.partition("=")[0] for word in rest if OPTION.fullmatch(word.partition("=")[0])}
        assert options <= {*known, "--help"}, f"fedgalore {' '.join(words)}"


@pytest.mark.parametrize(
    ("page", "script", "site", "others"),
    [
        (HOSPITALS, "notes.py", "north", ("south", "east")),
        (CHAT, "chats.py", "cards", ("loans", "accounts", "transfers")),
    ],
)
def test_the_data_fit_the_job_and_the_job_fits_the_policies(
    page: Path, script: str, site: str, others: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(saved(page)[script], script, "exec"), {"__name__": "__main__"})
    job = job_of(page)
    for name in (site, *others):
        config = tmp_path / name / "agent.yaml"
        config.write_text(saved(page)[f"{site}/agent.yaml"].replace(site, name), encoding="utf-8")
        settings = load(config)
        data = read_all(settings.data)[job.data.name]
        test = Split("test", data.test.examples) if data.test else None
        assert preflight(job, Split("train", data.train.examples), test).problem is None
        assert list(of_job(settings.policy, job, data.holdings(job))) == []


def test_further_jobs_of_the_tutorials_are_jobs() -> None:
    blocks = BLOCK.finditer(CHAT.read_text(encoding="utf-8"))
    texts = [
        block["text"] for block in blocks if block["language"] == "yaml" and block["text"].startswith("name: office")
    ]
    assert [parse(read_yaml(text)).model.task for text in texts] == ["causal-lm", "causal-lm"]
