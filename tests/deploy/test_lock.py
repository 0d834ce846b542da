"""What `make` installs from the locks is all that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
EVERYBODY = "requirements.lock"
BESIDE = {  # of an extra that one command alone installs, beside the other
    "mutation": "requirements-mutation.lock",
    "docs": "requirements-docs.lock",
    "browser": "requirements-browser.lock",
    "deploy": "requirements-deploy.lock",
    **dict.fromkeys(("trackers", "mlflow", "optuna", "tensorboard", "wandb"), "requirements-trackers.lock"),
    "bucket-tests": "requirements-bucket-tests.lock",
}


def pins(*names: str) -> dict[str, str]:
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    rows = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in rows}


def requirements() -> list[tuple[Requirement, tuple[str, ...]]]:
    """Each requirement, with the locks of which one must pin it; not those of an extra for other extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return [
        (Requirement(line), (EVERYBODY, BESIDE[extra]) if extra in BESIDE else (EVERYBODY,))
        for extra, lines in groups.items()
        for line in lines
        if Requirement(line).name != project["name"]
    ]


@pytest.mark.parametrize(("requirement", "locks"), [pytest.param(*row, id=row[0].name) for row in requirements()])
def test_a_dependency_is_pinned_within_its_range(requirement: Requirement, locks: tuple[str, ...]) -> None:
    version = pins(*locks).get(canonicalize_name(requirement.name))
    assert version is not None, "run `make lock`"
    assert requirement.specifier.contains(version), "run `make lock`"


@pytest.mark.parametrize("lock", BESIDE.values())
def test_what_is_installed_beside_changes_no_version_that_everybody_has(lock: str) -> None:
    assert not pins(lock).keys() & pins(EVERYBODY).keys()


def test_pins_fit_every_platform() -> None:
    for name in (EVERYBODY, *BESIDE.values(), "requirements-model.lock"):
        for package, version in pins(name).items():
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{package}=={version} names a build of one platform"
