"""The whole system on one machine as separate processes over loopback sockets: Redis, coordinator, aggregator, agents.

The demo and the end-to-end tests start it; every process writes to a separate log file under the given folder.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from fedgalore.process.redis_server import RedisServer
from fedgalore.spec.documents import write_yaml

STOP_S = 15.0
LEASE_S = 2  # no process pauses here for longer, and a restarted process waits for its predecessor's lease


class LaunchError(RuntimeError):
    """A process did not come up; the message holds the end of its log."""


@dataclass
class Process:
    """One child process and its log."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**_inherited(), **self.environment}
            )

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int | None:
        """Sends a signal and waits, then kills. Returns the exit status, or None if the process never ran."""
        if self.popen is None:
            return None
        if self.running:
            self.popen.send_signal(sign)
        try:
            return self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def last_lines(self, count: int = 15) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-count:])


def _inherited() -> dict[str, str]:
    """This process's environment without settings that are meant for another federation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEDGALORE_")}


@dataclass(frozen=True)
class Secured:
    """A federation with credentials and TLS; `certs`: what `fedgalore certs` made for 127.0.0.1 and for every agent."""

    certs: Path
    operator_key: str

    def coordinator(self) -> dict[str, str]:
        """Variables of the coordinator's process."""
        return {
            "FEDGALORE_OPERATOR_KEY": self.operator_key,
            "FEDGALORE_TLS_CERT": str(self.certs / "coordinator.pem"),
            "FEDGALORE_TLS_KEY": str(self.certs / "coordinator.key"),
            "FEDGALORE_CLIENT_CA": str(self.certs / "ca.pem"),
        }

    def agent(self, name: str) -> dict[str, str]:
        """Keys of an agent's config."""
        files = {"ca": "ca.pem", "tls_cert": f"agent-{name}.pem", "tls_key": f"agent-{name}.key"}
        return {key: str(self.certs / file) for key, file in files.items()}


class LocalFederation:
    """A context manager around a running federation.

    Args:
        root: folder for state, blobs, logs and agents' work.
        agents: agent configs as documents, without `coordinator` and `work_dir`, which are filled in.
        threads: CPU threads of the aggregator; the agents name theirs in their configs.
        wrapper: command line in front of the coordinator's command, which it runs.
        secured: credentials and TLS; without them all doors are open to this machine.
        environment: further variables of all its processes.

    Raises (on entering):
        LaunchError: a process did not come up.
    """

    def __init__(
        self,
        root: Path,
        agents: Sequence[Mapping[str, Any]],
        threads: int = 1,
        wrapper: Sequence[str] = (),
        secured: Secured | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.rest_url = ""
        self._ports: dict[str, int] = {"rest": 0, "grpc": 0}
        self._redis_url = ""
        self._threads = threads
        self._wrapper = wrapper
        self._secured = secured
        self._environment = dict(environment or {})
        self._agent_documents = agents
        self._stack = ExitStack()
        self.redis = RedisServer(root / "redis")
        self.coordinator = self._process("coordinator", [])
        self.agents: dict[str, Process] = {}

    def __enter__(self) -> LocalFederation:
        with self._stack:
            self.root.mkdir(parents=True, exist_ok=True)
            self._redis_url = self._stack.enter_context(self.redis).url
            self._stack.callback(self.stop_coordinator)
            self.start_coordinator()
            for document in self._agent_documents:
                self.start_agent(document)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_coordinator(self, timeout_s: float = 60, **environment: str) -> None:
        """Starts the coordinator, on the ports that it had before if it ran already, and waits until it is ready.

        Args:
            environment: further variables of its process.
        """
        port_file = self.root / "ports.json"
        port_file.unlink(missing_ok=True)
        self.coordinator = self._process(
            "coordinator",
            [*self._wrapper, sys.executable, "-m", "coordinator"],
            FEDGALORE_PORT_FILE=str(port_file),
            FEDGALORE_REDIS_URL=self._redis_url,
            FEDGALORE_BLOB_DIR=str(self.root / "blobs"),
            FEDGALORE_REST_PORT=str(self._ports["rest"]),
            FEDGALORE_GRPC_PORT=str(self._ports["grpc"]),
            FEDGALORE_THREADS=str(self._threads),
            **{
                "FEDGALORE_LEASE_S": str(LEASE_S),
                **(self._secured.coordinator() if self._secured else {}),
                **environment,
            },
        )
        self.coordinator.start()
        deadline = time.monotonic() + timeout_s
        while not port_file.exists():
            self._must_run(self.coordinator, deadline)
        self._ports = json.loads(port_file.read_text())
        self.rest_url = f"{'https' if self._secured else 'http'}://127.0.0.1:{self._ports['rest']}"
        while not self._ready():
            self._must_run(self.coordinator, deadline)

    def http(self) -> httpx.Client:
        """A client of the REST door, with the operator's key where there is one."""
        if self._secured is None:
            return httpx.Client(base_url=self.rest_url, trust_env=False)
        trust = ssl.create_default_context(cafile=self._secured.certs / "ca.pem")
        key = {"Authorization": f"Bearer {self._secured.operator_key}"}
        return httpx.Client(base_url=self.rest_url, verify=trust, headers=key, trust_env=False)

    def stop_coordinator(self, sign: signal.Signals = signal.SIGTERM) -> None:
        self.coordinator.stop(sign)

    def start_agent(self, document: Mapping[str, Any], coordinator: str | None = None) -> None:
        """Starts one more agent. `coordinator`: the address that it calls, if not that of the coordinator itself."""
        name = document["name"]
        folder = self.root / "agents" / name
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "agent.yaml"
        address = f"127.0.0.1:{self._ports['grpc']}"
        given = {"coordinator": coordinator or address, "work_dir": str(folder / "work")}
        environment = {}
        if self._secured is not None:
            given |= self._secured.agent(name)
            with self.http() as http:
                token = http.post("/api/v1/join-tokens", json={"client": name}).raise_for_status().json()
            environment["FEDGALORE_AGENT_JOIN_TOKEN"] = token["token"]
        config.write_text(write_yaml({**document, **given}))
        command = [sys.executable, "-m", "client_agent", "--config", str(config)]
        self.agents[name] = self._process(name, command, **environment)
        self._stack.callback(self.agents[name].stop)
        self.agents[name].start()

    def _process(self, name: str, command: Sequence[str], **environment: str) -> Process:
        # few threads: on a small machine the threads of several processes fight for the cores
        calm = {"OMP_NUM_THREADS": str(self._threads), "PYTHONUNBUFFERED": "1"}
        return Process(name, command, self.root / "logs" / f"{name}.log", {**calm, **self._environment, **environment})

    def _ready(self) -> bool:
        try:
            with self.http() as http:
                return http.get("/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def _must_run(self, process: Process, deadline: float) -> None:
        if not process.running or time.monotonic() > deadline:
            state = "did not become ready in time" if process.running else "ended while starting"
            raise LaunchError(f"{process.name} {state}; the end of its log {process.log}:\n{process.last_lines()}")
        time.sleep(0.05)
