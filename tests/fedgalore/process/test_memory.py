"""Errors of too little memory, as they really come; and what a machine, described by folders of the test, leaves."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedgalore.process.memory import anonymous_bytes, is_short
from tests.short_memory import room_for

HUGE = 2**50


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: bytearray(HUGE),
        lambda: np.zeros(HUGE),
        lambda: torch.zeros(HUGE),
        lambda: mmap.mmap(-1, HUGE),
    ],
)
def test_allocations_that_fail(allocate: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        allocate()
    assert is_short(caught.value)
    wrapped = ValueError("the model fails on row 3")
    wrapped.__cause__ = caught.value
    assert is_short(wrapped)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("index out of range in self"), False),
        (None, False),
    ],
)
def test_errors_as_others_word_them(error: BaseException | None, short: bool) -> None:
    assert is_short(error) is short


MACHINE = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    3000 kB\n", "proc/self/status": "RssAnon:\t     500 kB\n"}
VERSION_2 = {"proc/self/cgroup": "0::/pod/agent\n"}
VERSION_1 = {"proc/self/cgroup": "3:memory:/docker/abc\n0::/\n"}
MEMORY_1 = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("files", "kilobytes"),
    [
        (MACHINE, 3500),
        (MACHINE | VERSION_2 | {"sys/fs/cgroup/pod/agent/memory.max": "max\n"}, 3500),
        (MACHINE | VERSION_2 | {"sys/fs/cgroup/pod/agent/memory.max": "1024000\n"}, 1000),
        (MACHINE | VERSION_2 | {"sys/fs/cgroup/pod/memory.max": "2048000\n"}, 2000),
        (MACHINE | VERSION_1 | {MEMORY_1: "1024000\n"}, 1000),
        (MACHINE | VERSION_1 | {MEMORY_1: "9223372036854771712\n"}, 3500),
        ({"proc/meminfo": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_process_may_have_what_the_tightest_limit_leaves(
    tmp_path: Path, files: dict[str, str], kilobytes: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert anonymous_bytes(tmp_path) == (None if kilobytes is None else 1024 * kilobytes)


def test_a_limit_of_the_process_counts_too(tmp_path: Path) -> None:
    with room_for(2**20):
        found = anonymous_bytes(tmp_path)
    assert found is not None
    assert found < 2**40
