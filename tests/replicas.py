"""Two coordinators on one Redis and one blob folder behind a balancer that sends each call elsewhere."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fedgalore_cli.local import LocalFederation, Process
from tests.balancer import Balancer
from tests.e2e.conftest import WAIT_S, Running

MOST_BYTES = 200_000  # that a connection carries up
MOST_S = 20.0


@dataclass
class Replica:
    """A coordinator's process, and how it is started again on its ports."""

    process: Process
    ports: dict[str, int]

    def restart(self, sign: signal.Signals) -> None:
        """Stops it by this signal, and starts it when it has ended."""
        self.process.stop(sign)
        self.process.start()

    @property
    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports['rest']}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class Replicated(Running):
    """A federation of replicas; whoever calls does so through the balancers."""

    replicas: Sequence[Replica]
    rest: Balancer
    agents: Balancer

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request on a connection of its own, which leads to the next replica; again where it broke."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                url = f"http://127.0.0.1:{self.rest.port}/api/v1/{path}"
                answer = httpx.request(method, url, timeout=30, trust_env=False, **arguments)
                if answer.status_code != 503:
                    return answer
            except httpx.TransportError:
                pass
            assert time.monotonic() < end
            time.sleep(0.1)

    def wait_for(self, *replicas: Replica) -> None:
        end = time.monotonic() + WAIT_S
        while not all(replica.is_ready for replica in replicas):
            assert time.monotonic() < end
            time.sleep(0.1)


@contextmanager
def replicated(
    folder: Path, model: Path, agents: Sequence[Mapping[str, Any]], redis: Any = None, **environment: str
) -> Iterator[Replicated]:
    """Two replicas with these agents. `redis`: in place of one of its own; has a URL and is a context manager."""
    with ExitStack() as stack:
        federation = LocalFederation(folder, [], environment=environment)
        if redis is not None:
            federation.redis = redis
        stack.enter_context(federation)
        first = Replica(federation.coordinator, json.loads((folder / "ports.json").read_text()))
        file = folder / "second-ports.json"
        free = {"FEDGALORE_REST_PORT": "0", "FEDGALORE_GRPC_PORT": "0", "FEDGALORE_PORT_FILE": str(file)}
        command, log = [sys.executable, "-m", "coordinator"], folder / "logs" / "second.log"
        process = Process("second", command, log, {**first.process.environment, **free})
        stack.callback(process.stop)
        process.start()
        end = time.monotonic() + WAIT_S
        while not file.exists():
            assert process.running and time.monotonic() < end, process.last_lines()
            time.sleep(0.05)
        second = Replica(process, json.loads(file.read_text()))
        for replica in (first, second):  # it comes back where it was
            ports = {f"FEDGALORE_{door.upper()}_PORT": str(port) for door, port in replica.ports.items()}
            replica.process.environment = {**replica.process.environment, **ports}
        rest = stack.enter_context(Balancer([first.ports["rest"], second.ports["rest"]], 10**9, 60))
        door = Balancer([first.ports["grpc"], second.ports["grpc"]], MOST_BYTES, MOST_S)
        stack.enter_context(door)
        running = Replicated(federation, model, (first, second), rest, door)
        running.wait_for(first, second)
        for agent in agents:
            federation.start_agent(agent, f"127.0.0.1:{door.port}")
        yield running
        for agent in federation.agents.values():
            agent.stop()
