"""How many threads a process computes with, so that it fits the machine, its limits, and our other processes there.

Threads of a matrix product wait for each other in a loop. Where a quota or another process takes the core of one, the
others wait for all that time: a second of work took ten and more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import BeforeValidator

from fedgalore.process.cgroups import ROOT, groups, read
from fedgalore.spec.findings import does_not_fit

MOST = 1024
MODULES = ("client_agent", "coordinator.aggregator")  # of `python -m`
COMMANDS = ("agent", "aggregator", "simulate")  # of `fedgalore`
log = structlog.get_logger("threads")


@dataclass(frozen=True)
class Threads:
    """A number of threads, and why it is that."""

    count: int
    reason: str


def parsed(value: Any) -> int | Literal["auto"]:
    """The value of a setting.

    Raises:
        ValueError: it is neither `auto` nor a number of threads.
    """
    text = str(value).strip()
    if text == "auto":
        return "auto"
    if (
        isinstance(value, int | str)
        and not isinstance(value, bool)
        and text.isascii()
        and text.isdecimal()
        and 1 <= int(text[:5]) <= MOST
    ):
        return int(text)
    raise ValueError(does_not_fit(value, f"auto or a whole number from 1 to {MOST}"))


ThreadSetting = Annotated[int | Literal["auto"], BeforeValidator(parsed)]


def choose(setting: int | Literal["auto"], root: Path = ROOT) -> Threads:
    """What the setting comes to on this machine, now; `root` holds `proc` and `sys`."""
    if setting != "auto":
        return Threads(setting, "set")
    limits = {"cores that the process may use": _cores(root)}
    if (quota := cgroup_quota(root)) is not None:
        limits[f"CPUs by the cgroup's quota of {quota:g}"] = max(1, int(quota))
    if (variable := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(variable) > 0:
        limits["by OMP_NUM_THREADS"] = int(variable)
    sharing = max(1, computing_processes(root))
    words = ", ".join(f"{count} {name}" for name, count in limits.items())
    return Threads(max(1, min(limits.values()) // sharing), f"{words}; processes of ours that compute here: {sharing}")


def announced(setting: int | Literal["auto"]) -> int:
    """What `choose` says, told to the log. Torch hears it once a process: training may round otherwise by another."""
    chosen = choose(setting)
    log.info("threads_chosen", threads=chosen.count, reason=chosen.reason)
    return chosen.count


def cgroup_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that this process' control groups leave it, of version 1 or 2; None without a limit."""
    quotas = [quota for folder in groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def computing_processes(root: Path = ROOT) -> int:
    """How many agents, aggregators and simulations run on this machine, as far as this process may see."""
    return sum(_computes(read(folder / "cmdline").split("\0")) for folder in (root / "proc").glob("[0-9]*"))


def _cores(root: Path) -> int:
    """Cores that the process may run on; two threads of one core have one unit that multiplies."""
    cpus = os.sched_getaffinity(0)
    folder = root / "sys/devices/system/cpu"
    return len({read(folder / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus})


def _quota(folder: Path) -> float | None:
    """Of one control group: `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1."""
    words = read(folder / "cpu.max").split() or [
        read(folder / "cpu.cfs_quota_us").strip(),
        read(folder / "cpu.cfs_period_us").strip(),
    ]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None  # such as `max`, or -1: no limit
    return int(words[0]) / int(words[1])


def _computes(argv: list[str]) -> bool:
    """Whether a command line is that of an agent, an aggregator or a simulation."""
    for word, following in pairwise(argv):
        if word == "-m" and following in MODULES:
            return True
        if (word.endswith("/fedgalore") or word in ("fedgalore", "fedgalore_cli.main")) and following in COMMANDS:
            return True
    return False
