"""The package as a user has it: what its face names, what importing it costs, the types that it brings along."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fedgalore

ROOT = Path(__file__).parents[2]
NAMES = [name for name in fedgalore.__all__ if name not in ("PROTOCOL_VERSION", "__version__")]
LEFT_OUT = {
    ".git",
    ".venv",
    "__pycache__",
    "build",
    "dist",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
}

USE = """
from pathlib import Path
from typing import assert_type

import fedgalore
from fedgalore import (
    PROTOCOL_VERSION,
    GaLoreAdamW,
    JobSpec,
    RoundRecord,
    SimulationResult,
    Site,
    SplitFile,
    load_job,
    parse_job,
    read_examples,
    simulate,
    split,
)
from torch import nn

optimizer = GaLoreAdamW(nn.Linear(3, 4).named_parameters(), lr=1e-3, rank=2)
assert_type(optimizer, GaLoreAdamW)
assert_type(optimizer.step(), None)
job = load_job(Path("job.yaml"))
assert_type(job, JobSpec)
assert_type(parse_job({}), JobSpec)
examples = read_examples(SplitFile(Path("train.csv"), text=("text",), label="label"))
assert_type(split("iid", [example["label"] for example in examples], 2, 1.0, 0), list[list[int]])
result = simulate(job, Path("model"), [Site("a", examples)])
assert_type(result, SimulationResult)
assert_type(result.rounds, list[RoundRecord])
assert_type(fedgalore.__version__, str)
assert_type(PROTOCOL_VERSION, int)
"""


MYPY = """
[mypy]
strict = true
untyped_calls_exclude = torch
[mypy-transformers.*,torch.*]
# a minute of reading
follow_imports = skip
[mypy-optuna.*]
# an extra of one example
ignore_missing_imports = true
"""


def fresh(code: str) -> str:
    """What another interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True).stdout


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "transformers", "numpy", "pydantic", "peft"}
    assert fresh(f"import sys, fedgalore; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_jobs_and_data_are_read_without_torch():
    code = "import sys; from fedgalore import {}; print('torch' in sys.modules)"
    assert fresh(code.format("JobSpec, load_job, parse_job, SplitFile, read_examples, split")).strip() == "False"


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves(name):
    value = getattr(fedgalore, name)
    assert value is getattr(fedgalore, name)
    assert value.__doc__
    assert name in dir(fedgalore)


def test_the_face_is_about_ten_names():
    assert 8 <= len(NAMES) <= 12
    scope: dict[str, object] = {}
    exec("from fedgalore import *", scope)
    assert set(fedgalore.__all__) <= scope.keys()


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Galore'"):
        fedgalore.Galore  # noqa: B018


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the package from its wheel, and everything else from where the tests have it."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(ROOT, folder / "source", ignore=lambda _, names: LEFT_OUT & set(names))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, timeout=100, check=True)
    venv.create(folder / "venv")
    packages = next((folder / "venv").glob("lib*/python*/site-packages"))
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "elsewhere.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder / "venv" / "bin" / "python"


def mypy(files: list[Path], python: Path, cache: Path) -> str:
    """What strict mypy says of files in a folder of their own."""
    config = files[0].parent / "mypy.ini"
    config.write_text(MYPY)
    command = [sys.executable, "-m", "mypy", "--config-file", config, "--python-executable", python]
    command += ["--cache-dir", cache, *files]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(command, cwd=config.parent, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)  # the first time, mypy reads torch
def test_mypy_sees_the_types_of_the_installed_package(installed, tmp_path, request):
    use = tmp_path / "use.py"
    use.write_text(USE)
    examples = [Path(shutil.copy(path, tmp_path)) for path in sorted((ROOT / "examples").glob("*.py"))]
    assert examples
    cache = request.config.cache.mkdir("mypy-of-a-user")
    printed = mypy([use, *examples], installed, cache)
    assert "Success" in printed, printed
    use.write_text("from fedgalore import GaLoreAdamW\nGaLoreAdamW([], ranks=2)\n")
    assert 'Unexpected keyword argument "ranks"' in mypy([use], installed, cache)
