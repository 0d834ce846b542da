"""What all commands have in common: formats, exit statuses, contexts, and what stands before the command's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from fedgalore.process.redis_server import free_port
from fedgalore.version import __version__
from fedgalore_cli.exits import MEANINGS, OF_JOBS
from fedgalore_cli.main import app

RUN_UNTIL_STOPPED = {"coordinator", "aggregator", "agent", "demo"}  # they have logs, and not a result


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(autouse=True)
def _no_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "API_KEY", "API_KEY_FILE", "CA", "CONTEXT"):
        monkeypatch.delenv(f"FEDGALORE_{name}", raising=False)
    monkeypatch.setenv("FEDGALORE_CONFIG", str(tmp_path / "contexts.toml"))


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{path}{name} ")
        else:
            yield f"{path}{name}", each


def test_every_command_that_prints_takes_a_format() -> None:
    lacking = [
        name
        for name, command in commands(typer.main.get_command(app))
        if not any("--output" in each.opts and "-o" in each.opts for each in command.params)
    ]
    assert set(lacking) == RUN_UNTIL_STOPPED


def test_the_version_is_told_before_and_as_a_command() -> None:
    assert run("--version").stdout == run("version").stdout
    assert yaml.safe_load(run("version", "-o", "yaml").stdout)["version"] == __version__


def test_exit_statuses_are_those_of_the_page_and_of_the_help() -> None:
    page = (Path(__file__).parents[2] / "docs/CLIENT.md").read_text().partition("### Exit status")[2]
    told = {int(status): meaning for status, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)}
    assert told == {status.value: meaning for status, meaning in MEANINGS.items()}
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).stdout
    assert all(meaning in shown for meaning in MEANINGS.values())
    assert set(OF_JOBS) == {"COMPLETED", "FAILED", "PAUSED", "CANCELLED"}


def test_coordinators_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clinic.key").write_text("fgk_1")
    assert "there are none yet" in run("context", "list").stderr
    nobody, other = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    assert run("context", "add", "clinic", "--at", nobody, "--key-file", "clinic.key").stdout == f"clinic is {nobody}\n"
    added = run("context", "add", "lab", "--at", other, "--ca", "ca.pem")
    assert added.stdout == f"lab is {other}; the current one is clinic\n"
    assert added.stderr == "warning: --ca: there is no file ca.pem yet\n"
    first, second = json.loads(run("context", "list", "-o", "json").stdout)["contexts"]
    assert first == {
        "name": "clinic",
        "current": True,
        "url": nobody,
        "key_file": str(tmp_path / "clinic.key"),  # whatever folder the next command runs in
        "ca": None,
    }
    assert (second["name"], second["current"], second["ca"]) == ("lab", False, str(tmp_path / "ca.pem"))
    away = run("jobs", "list")
    assert (away.exit_code, nobody in away.stderr) == (6, True)
    assert other in run("--context", "lab", "jobs", "list").stderr
    assert run("context", "use", "lab").exit_code == 0
    assert other in run("jobs", "list").stderr
    refused = run("context", "use", "nowhere")
    assert refused.exit_code == 2
    assert "--context (FEDGALORE_CONTEXT): there is no 'nowhere'; there are clinic, lab" in refused.stderr
    assert "--at: '127.0.0.1' does not start with" in run("context", "add", "x", "--at", "127.0.0.1").stderr


def test_quiet_leaves_errors_alone_and_verbose_tells_requests() -> None:
    assert run("context", "list").stderr and not run("--quiet", "context", "list").stderr
    url = f"http://127.0.0.1:{free_port()}"
    assert run("-q", "jobs", "list", "--url", url).stderr.startswith("error: no answer from")
    assert "GET http://127.0.0.1" in run("-v", "jobs", "list", "--url", url).stderr
