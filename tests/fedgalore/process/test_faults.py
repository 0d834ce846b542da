"""A process dies at the fault point that its setting names, and it dies there once."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedgalore.process import faults
from fedgalore.process.faults import Fault

PASSES_TWICE = (
    "from fedgalore.process import faults; faults.arm({setting!r}); "
    "[faults.reach(faults.Fault.CHUNK_WRITTEN) for _ in range(2)]; print('alive')"
)


def passing_twice(setting: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PASSES_TWICE.format(setting=setting)], capture_output=True, text=True)


@pytest.mark.parametrize(("point", "passing", "dies"), [(4, 1, True), (4, 2, True), (4, 3, False), (5, 1, False)])
def test_it_dies_at_its_point_and_passing(tmp_path: Path, point: int, passing: int, dies: bool) -> None:
    fired = tmp_path / "fired"
    done = passing_twice(f"{point}:{passing}:{fired}")
    assert (done.returncode, done.stdout) == ((-9, "") if dies else (0, "alive\n"))
    assert fired.exists() == dies
    if dies:
        assert fired.read_text().split()[:2] == ["4", "CHUNK_WRITTEN"]
        assert passing_twice(f"{point}:{passing}:{fired}").stdout == "alive\n"


@pytest.mark.parametrize("text", ["", "4", "4:1", "4:1:", "4:0:/x", "99:1:/x", "a:1:/x"])
def test_a_setting_that_names_no_point_is_refused_with_the_points(text: str) -> None:
    with pytest.raises(ValueError, match=r"POINT:PASSING:FILE.*4 CHUNK_WRITTEN"):
        faults.arm(text)


def test_no_number_is_taken_twice() -> None:
    assert len(Fault.__members__) == len(set(Fault))
