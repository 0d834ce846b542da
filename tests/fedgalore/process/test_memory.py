"""Errors of too little memory, as they really come."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedgalore.process.memory import is_short

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
