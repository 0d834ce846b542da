"""Flower's experiments: a SuperLink with a database, two SuperNodes, and the app in `flower_app`.

With isolation `subprocess`, the default, SuperLink and SuperNodes start a SuperExec each, which starts the app's
processes; with `process` the SuperExecs are started beside them and outlive them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kills.experiment import (
    CLIENTS,
    HAND,
    KILLED_IN,
    NOBODY,
    ROUNDS,
    Experiment,
    Missed,
    RoundEnd,
    Run,
    State,
)
from benchmarks.kills.processes import descendants, end, is_running, reap
from fedgalore.process.redis_server import free_port
from fedgalore_cli.demo.job import agent_documents
from fedgalore_cli.demo.sites import DATASET, DemoSite
from fedgalore_cli.local import Process

VERSION = "1.41.0"
SYSTEM = "Flower"
ISOLATIONS = ("subprocess", "process")
APP = Path(__file__).parent / "flower_app"
STEPS = 60  # longer than the three seconds by which one client may begin after another
STEP_S = 0.1
READY_S = 60.0
ASKED_EVERY_S = 4.0  # the command that shows a run's status takes a second
CONFIG = """\
[superlink]
default = "here"

[superlink.here]
address = "{address}"
insecure = true
"""


def python_of(folder: Path) -> Path:
    """The python of a virtual environment with Flower under `folder`, which is created if it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "flwr").exists():  # it is missing, or its installation was interrupted
        print(f"installing flwr {VERSION} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"flwr=={VERSION}", "numpy"], check=True)
    return python


def version_of(python: Path) -> str:
    """The version of Flower in this python's environment."""
    code = "from importlib.metadata import version; print(version('flwr'))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def experiments(folder: Path, sites: Sequence[DemoSite], python: Path) -> list[Experiment]:
    """The experiments. Writes the sites' texts to `folder`."""
    data = [Path(agent["data"][DATASET]["train"]) for agent in agent_documents(sites, folder / "data")]
    restarted_by = {"": "", "ServerApp": NOBODY, "ClientApp": NOBODY, "SuperLink": HAND, "SuperNode": HAND}
    return [
        Experiment(
            SYSTEM,
            isolation,
            killed,
            f"round {KILLED_IN}, clients training" if killed else "",
            by,
            partial(_started, folder / f"{isolation}-{killed or 'nothing'}", python, isolation, data, killed),
        )
        for isolation in ISOLATIONS
        for killed, by in restarted_by.items()
    ]


@contextmanager
def _started(folder: Path, python: Path, isolation: str, data: Sequence[Path], killed: str) -> Iterator[Run]:
    with closing(_Run(folder, python.parent, isolation, data, killed)) as run:
        run.start()
        yield run


class _Run:
    """One run of one federation; a process that dies at a site dies at the last site."""

    def __init__(self, folder: Path, programs: Path, isolation: str, data: Sequence[Path], killed: str) -> None:
        self._folder, self._programs, self._killed = folder, programs, killed
        self._orphans: set[int] = set()
        self._status, self._asked = "not handed in", 0.0
        self._run_id = ""
        ports = [free_port() for _ in range(1 + CLIENTS)]
        self._port = ports[0]
        local = [f"127.0.0.1:{port}" for port in ports]
        common = ["--insecure", "--isolation", isolation]
        database = ["--database", str(folder / "state.db"), "--disable-runtime-dependency-installation"]
        self._link = self._process("flower-superlink", "link", *common, "--port", str(ports[0]), *database)
        self._nodes = [
            self._process(
                "flower-supernode",
                site.parent.name,
                *(*common, "--superlink", local[0], "--port", str(port), "--node-config", f"site='{site}'"),
            )
            for site, port in zip(data, ports[1:], strict=True)
        ]
        apart = local if isolation == "process" else []
        self._executors = [
            self._process("flower-superexec", f"exec-{number}", "--insecure", "--runtime-api-address", address)
            for number, address in enumerate(apart)
        ]

    def start(self) -> None:
        """Starts everything; returns when the SuperLink answers."""
        home = self._folder / "home"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(CONFIG.format(address=f"127.0.0.1:{self._port}"))
        self._link.start()
        stop = time.monotonic() + READY_S
        while not _listens(self._port):
            if time.monotonic() > stop or not self._link.running:
                raise Missed(f"the SuperLink did not come up; the end of its log:\n{self._link.last_lines()}")
            time.sleep(0.1)
        for process in (*self._nodes, *self._executors):
            process.start()

    def begin(self) -> None:
        config = f"journal='{self._journal}' rounds={ROUNDS} steps={STEPS} step-s={STEP_S}"
        answer = self._flwr("run", str(APP), "here", "--run-config", config)
        if answer is None:
            raise Missed("Flower did not accept the run")
        self._run_id = answer["run-id"]

    def ripe(self) -> bool:
        return all_train(self._notes(), KILLED_IN)

    def kill(self) -> None:
        self._remember()
        match self._killed:
            case "SuperLink":
                self._link.stop(signal.SIGKILL)
            case "SuperNode":
                self._nodes[-1].stop(signal.SIGKILL)
            case "ServerApp":
                _kill_under(self._executors[0] if self._executors else self._link, "flwr-serverapp")
            case "ClientApp":
                _kill_under(self._executors[-1] if self._executors else self._nodes[-1], "flwr-clientapp")

    def restart(self) -> None:
        if self._killed == "SuperLink":
            self._link.start()
        if self._killed == "SuperNode":
            self._nodes[-1].start()

    def state(self) -> State:
        self._orphans = set(reap(self._orphans))
        if time.monotonic() - self._asked > ASKED_EVERY_S:
            self._status = self._ask()
            self._asked = time.monotonic()
        return stated(self._status, self._notes())

    def digest(self) -> str:
        return str(max((note for note in self._notes() if "digest" in note), key=lambda note: note["at"])["digest"])

    def close(self) -> None:
        """Ends every process of this federation."""
        self._remember()
        for process in (*self._executors, *self._nodes, self._link):
            process.stop()
        end(self._orphans)

    def _remember(self) -> None:
        """Notes the descendants of all processes: whoever outlives its parent has to be reaped or ended."""
        for process in (self._link, *self._nodes, *self._executors):
            if process.popen is not None:
                self._orphans.update(descendants(process.popen.pid))

    @property
    def _journal(self) -> Path:
        return self._folder / "journal"

    def _notes(self) -> list[dict[str, Any]]:
        if not self._journal.exists():
            return []
        return [json.loads(line) for line in self._journal.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    def _ask(self) -> str:
        answer = self._flwr("list", "here", "--run-id", self._run_id)
        if answer is None:
            return "does not answer"
        (run,) = answer["runs"]
        details = run["status-details"]
        return str(run["status"]) + (f": {details}" if details not in ("", "N/A") else "")

    def _flwr(self, command: str, *words: str) -> Any:
        """A command's answer; None where it has none."""
        whole = [str(self._programs / "flwr"), command, *words, "--format", "json"]
        environment = {**os.environ, **self._environment}
        try:
            done = subprocess.run(
                whole, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_S
            )
            answer = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            return None
        return answer if answer.get("success") else None

    def _process(self, program: str, name: str, *words: str) -> Process:
        command = [str(self._programs / program), *words]
        return Process(name, command, self._folder / "logs" / f"{name}.log", self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self._programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self._folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }


def _kill_under(parent: Process, program: str) -> None:
    assert parent.popen is not None
    victims = [pid for pid in descendants(parent.popen.pid) if is_running(pid, program)]
    if not victims:
        raise Missed(f"{program} does not run, so that it cannot be killed")
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def all_train(notes: Sequence[dict[str, Any]], round_number: int) -> bool:
    """Whether every client has begun a round's steps and none has ended them."""
    done: dict[str, int] = {}
    for note in notes:
        if note["round"] == round_number and "step" in note:
            done[note["site"]] = note["step"]
    return len(done) == CLIENTS and max(done.values()) < STEPS


def stated(status: str, notes: Sequence[dict[str, Any]]) -> State:
    """A run's state from the app's journal."""
    ends = [RoundEnd(note["round"], note["clients"], note["at"]) for note in notes if "clients" in note]
    redone = len(ends) - len({round_end.number for round_end in ends})
    return State(status, status.startswith("finished"), status.startswith("finished:completed"), ends, redone)
