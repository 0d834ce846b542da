"""The command line without any extra: it works, and commands that need an extra say how to get it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import importlib.abc, sys
hidden = set(sys.argv.pop(1).split(","))
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from fedgalore_cli.main import main
main()
"""


def needed(lines: list[str], seen: set[str]) -> set[str]:
    """Adds to `seen` the distributions that pip installs for these requirements."""
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            seen.add(name)
            needed(requires(name) or [], seen)
    return seen


@pytest.fixture(scope="module")
def hidden() -> str:
    """Packages of the environment that the project's own dependencies, without extras, do not bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = needed(project["dependencies"], {"fedgalore"})
    names = {
        package
        for package, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & base
    }
    assert {"torch", "numpy", "grpc", "fastapi"} <= names
    return ",".join(names)


def fedgalore(hidden: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", RUN, hidden, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--help"], 0, "Federated fine-tuning"),
        (["jobs", "list", "--url", "http://127.0.0.1:9"], 6, "127.0.0.1:9"),
        (["certs", "--help"], 0, "certs"),
        (["doctor", "--url", "http://127.0.0.1:9"], 0, "pip install 'fedgalore[coordinator]' brings it"),
        (["coordinator", "--blob-dir", "blobs"], 1, "pip install 'fedgalore[all]'"),
        (["simulate", "examples"], 1, "pip install 'fedgalore[all]'"),
    ],
)
def test_without_extras(hidden: str, arguments: list[str], status: int, told: str) -> None:
    code, output = fedgalore(hidden, *arguments)
    assert (code, told in output, "Traceback" in output) == (status, True, False), output
