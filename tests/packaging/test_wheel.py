"""The wheel: what is in it, and that it lives beside other packages of common names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"fedgalore", "fedgalore_cli", "coordinator", "client_agent", "protos"}
DECOYS = ("cli", "deploy", "process", "tests", "benchmarks")  # what other packages on a machine may be called


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What the command prints; it sees no package of the folder that the tests run in."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    offline = ("--disable-pip-version-check", "--no-index", "--no-deps")
    run(sys.executable, "-m", "pip", *arguments, *offline, cwd=cwd)


def tracked() -> Iterator[str]:
    """Files of the repository, without what was removed but not committed yet."""
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if (ROOT / name).is_file():
            yield name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder / "source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder of packages where the wheel is installed after others whose names it must not claim."""
    folder = wheel.parent / "site"
    for name in DECOYS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("decoy = True\n")
    pip("install", "--target", folder, wheel, cwd=wheel.parent)
    return folder


def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_it_claims_five_names_at_the_top(wheel: Path) -> None:
    assert {name.split("/")[0] for name in names(wheel)} == PACKAGES


def test_every_file_of_the_packages_is_inside(wheel: Path) -> None:
    expected = {name for name in tracked() if name.split("/")[0] in PACKAGES}
    assert names(wheel) == expected
    for example in (
        "coordinator/doors/rest/page/views/job.js",
        "coordinator/doors/rest/page/vendor/uPlot-LICENSE.txt",
        "protos/federation.proto",
    ):
        assert example in expected
    for folder, ending in (("coordinator/store/lua/", ".lua"), ("fedgalore_cli/demo/data/", ".csv")):
        assert any(name.startswith(folder) and name.endswith(ending) for name in expected)


def test_it_brings_a_single_command(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        entries = ConfigParser()
        entries.read_string(archive.read(path).decode())
    assert dict(entries["console_scripts"]) == {"fedgalore": "fedgalore_cli.main:main"}


def test_it_runs_beside_packages_of_common_names(site: Path, tmp_path: Path) -> None:
    seen = run(
        sys.executable, "-c", "import fedgalore_cli; print(fedgalore_cli.__file__)", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert Path(seen.strip()).is_relative_to(site)  # not the repository, which is installed here as well
    version = run(sys.executable, "-m", "fedgalore_cli.main", "version", cwd=tmp_path, PYTHONPATH=str(site))
    assert version.startswith("fedgalore ")
    assert run(site / "bin" / "fedgalore", "version", cwd=tmp_path, PYTHONPATH=str(site)) == version
    for name in DECOYS:
        line = f"import {name}; assert {name}.decoy"
        run(sys.executable, "-c", line, cwd=tmp_path, PYTHONPATH=str(site))
