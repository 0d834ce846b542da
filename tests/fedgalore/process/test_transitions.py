"""A row of a table is held to what it says."""

from __future__ import annotations

from enum import Enum, auto

import pytest

from fedgalore.process.transitions import UndeclaredTransition, to


class Lamp(Enum):
    ON = auto()
    OFF = auto()


class Press: ...


def test_a_row_accepts_the_states_that_it_names_and_no_other() -> None:
    row = to(lambda lamp: lamp, Lamp.OFF)
    row.check(Lamp.ON, Press(), Lamp.OFF)
    with pytest.raises(UndeclaredTransition, match="Press led from ON to ON, but its row leads to OFF"):
        row.check(Lamp.ON, Press(), Lamp.ON)


def test_a_row_that_names_no_state_refuses_whatever_comes_back() -> None:
    with pytest.raises(AssertionError, match="leads to nowhere"):
        to(lambda lamp: lamp).check(Lamp.ON, Press(), Lamp.ON)
