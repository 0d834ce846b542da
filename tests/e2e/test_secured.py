"""A federation that asks everybody for credentials, over TLS that both sides prove themselves by."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from fedgalore_cli.local import LocalFederation, Process, Secured
from fedgalore_cli.main import app
from tests.e2e.conftest import NAMES, Running, agents_of, different, ended

pytestmark = pytest.mark.slow

OPERATOR = f"operators-key-{secrets.token_hex(16)}"  # no other process of this machine has it


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("secured")
    names = [part for name in NAMES for part in ("--agent", name)]
    created = CliRunner().invoke(app, ["certs", "--dir", str(folder / "certs"), "--host", "127.0.0.1", *names])
    assert created.exit_code == 0, created.output
    doors = Secured(folder / "certs", OPERATOR)
    with LocalFederation(folder / "run", agents_of(folder), secured=doors) as federation:
        running = Running(federation, tiny_bert)
        wait_for_agents(running, NAMES)
        yield running


def wait_for_agents(running: Running, names: Sequence[str]) -> None:
    end = time.monotonic() + 60
    while not set(names) <= {agent["name"] for agent in running.get("agents")["agents"]}:
        assert time.monotonic() < end
        time.sleep(0.1)


def exit_status(process: Process, within_s: float) -> int | None:
    assert process.popen is not None
    end = time.monotonic() + within_s
    while process.popen.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    return process.popen.returncode


@pytest.mark.proof
def test_a_job_runs_to_the_same_bits_and_a_restart_needs_no_token(secured: Running, tmp_path: Path) -> None:
    job_id = secured.post()
    secured.wait(job_id, lambda job: (job["model_version"] or 0) >= 1)
    secured.restart_agent("north")  # its token is used: it comes back with its own key
    secured.federation.stop_coordinator()
    secured.federation.start_coordinator()
    job = secured.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    weights = secured.downloaded(job_id, tmp_path, AutoModelForSequenceClassification)
    assert different(weights, secured.simulated()) == []
    with pytest.raises(httpx.TransportError):
        httpx.get(secured.federation.rest_url.replace("https", "http"))
    assert httpx.get(secured.url("jobs"), verify=False).status_code == 401


def test_a_revoked_agent_ends_within_a_poll_and_comes_back_when_invited(secured: Running) -> None:
    west = secured.federation.agents["west"]
    assert secured.ask("DELETE", "agents/west").status_code == 204
    assert exit_status(west, within_s=60) == 3, west.last_lines()
    assert "revoked" in west.last_lines()
    assert [agent["name"] for agent in secured.get("agents")["agents"]] == ["north", "south"]
    west.start()  # its token is void
    assert exit_status(west, within_s=60) == 3, west.last_lines()
    token = secured.ask("POST", "join-tokens", json={"client": "west"}).json()["token"]
    west.environment = {**west.environment, "FEDGALORE_AGENT_JOIN_TOKEN": token}
    west.start()  # with the key that was revoked, perhaps because it was stolen
    assert exit_status(west, within_s=60) == 3, west.last_lines()
    assert "delete agent.key" in west.last_lines()
    (secured.federation.root / "agents/west/work/agent.key").unlink()
    west.start()
    wait_for_agents(secured, ["west"])


def test_no_secret_shows_in_a_log_or_a_process_list(secured: Running) -> None:
    federation = secured.federation
    keys = [path.read_text().strip() for path in (federation.root / "agents").glob("*/work/agent.key")]
    assert len(keys) == len(NAMES)
    tokens = [agent.environment["FEDGALORE_AGENT_JOIN_TOKEN"] for agent in federation.agents.values()]
    logs = "".join(path.read_text(errors="replace") for path in (federation.root / "logs").glob("*.log"))
    commands = str([process.command for process in (federation.coordinator, *federation.agents.values())])
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            commands += (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
    assert "client_agent --config" in commands
    assert "coordinator_started" in logs
    for secret in (OPERATOR, *keys, *tokens):
        assert secret not in logs
        assert secret not in commands
