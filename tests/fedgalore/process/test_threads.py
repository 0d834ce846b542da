"""Threads by the limits of a machine, which folders of the test describe."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fedgalore.process import threads
from fedgalore.process.threads import announced, cgroup_quota, choose, computing_processes, parsed


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine of eight cores with two threads each, of which the process may use all."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    for cpu in range(16):
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 8},{cpu % 8 + 8}\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def run(machine: Path, *commands: str) -> None:
    for number, command in enumerate(commands, 100):
        write(machine / f"proc/{number}/cmdline", command.replace(" ", "\0") + "\0")


GROUP = "cpu,cpuacct/docker/abc/cpu.cfs"
VERSION_2, VERSION_1 = "0::/kubepods/pod1/agent\n", "4:memory:/m\n3:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        (VERSION_2, {"kubepods/pod1/agent/cpu.max": "250000 100000\n"}, 2.5),
        (VERSION_2, {"kubepods/pod1/agent/cpu.max": "max 100000\n"}, None),
        (VERSION_2, {"kubepods/pod1/agent/cpu.max": "max 100000\n", "kubepods/pod1/cpu.max": "150000 100000\n"}, 1.5),
        (VERSION_2, {"kubepods/pod1/agent/cpu.max": "400000 100000", "kubepods/cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),  # in a container with a namespace of its own
        ("0::/../../host\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (VERSION_1, {f"{GROUP}_quota_us": "300000\n", f"{GROUP}_period_us": "100000\n"}, 3.0),
        (VERSION_1, {f"{GROUP}_quota_us": "-1\n", f"{GROUP}_period_us": "100000\n"}, None),
        (VERSION_1, {"cpu/cpu.cfs_quota_us": "80000\n", "cpu/cpu.cfs_period_us": "40000\n"}, 2.0),
        (VERSION_2, {"kubepods/pod1/agent/cpu.max": "nonsense\n"}, None),
        (VERSION_2, {"kubepods/pod1/agent/cpu.max": "100000 0\n"}, None),
        ("nonsense", {}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_tightest_of_the_groups_around_the_process(machine, own, files, quota):
    write(machine / "proc/self/cgroup", own)
    for name, text in files.items():
        write(machine / "sys/fs/cgroup" / name, text)
    assert cgroup_quota(machine) == quota


def test_processes_that_compute_are_counted_and_no_others(machine):
    run(
        machine,
        "python -m client_agent --config a.yaml",
        "/venv/bin/python /venv/bin/fedgalore agent --config b.yaml",
        "python -m coordinator.aggregator --until-stdin-closes",
        "python -m fedgalore_cli.main simulate job.yaml",
        "python -m coordinator",
        "/venv/bin/python /venv/bin/fedgalore jobs watch agent",
        "vim client_agent",
        "",
    )
    assert computing_processes(machine) == 4


@pytest.mark.parametrize(
    ("quota", "variable", "agents", "count"),
    [
        (None, None, 0, 8),  # cores, not their threads
        ("250000 100000", None, 1, 2),
        ("50000 100000", None, 1, 1),
        ("6400000 100000", None, 1, 8),  # more than the machine has
        (None, "3", 1, 3),
        (None, "nonsense", 1, 8),
        (None, None, 4, 2),
        (None, None, 20, 1),
    ],
)
def test_auto_is_what_the_tightest_limit_leaves_to_each(machine, monkeypatch, quota, variable, agents, count):
    write(machine / "proc/self/cgroup", "0::/\n")
    if quota:
        write(machine / "sys/fs/cgroup/cpu.max", quota)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    run(machine, *["python -m client_agent"] * agents)
    chosen = choose("auto", machine)
    assert chosen.count == count
    assert f"ours that compute here: {max(1, agents)}" in chosen.reason


def test_a_part_of_the_machine_is_seen_and_a_number_is_taken_as_it_is(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 8, 3})
    assert choose("auto", machine).count == 2
    assert choose(64, machine).count == 64


def test_a_machine_that_tells_nothing_counts_its_cpus(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert choose("auto", tmp_path).count == 3


def test_the_log_says_why():
    with capture_logs() as logs:
        told = [announced(3), announced("auto")]
    assert told[0] == 3
    assert told[1] >= 1
    assert [(line["event"], line["threads"]) for line in logs] == [("threads_chosen", count) for count in told]
    assert logs[0]["reason"] == "set"


@pytest.mark.parametrize(("value", "meant"), [("auto", "auto"), (1, 1), ("12", 12), (" 4 ", 4), (threads.MOST, 1024)])
def test_a_setting_is_auto_or_a_number(value, meant):
    assert parsed(value) == meant


@pytest.mark.parametrize("value", [0, -1, "0", 1025, "10000000", "many", "", None, True, 1.5, "1.5", "²", [1]])
def test_other_settings_are_refused(value):
    with pytest.raises(ValueError, match="does not fit; give auto or a whole number from 1 to 1024"):
        parsed(value)
