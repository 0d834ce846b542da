"""A federation of separate processes around a tiny model: Redis, coordinator, aggregator, three agents."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from client_agent.data import read_all
from client_agent.settings import load
from fedgalore.data.examples import Example
from fedgalore.records import SimulationResult
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import parse
from fedgalore_cli.local import LocalFederation
from tests.fedgalore.conftest import COLOURS, questions, sentences, squares, tiny_bert, tiny_gpt2, tiny_levit, tiny_vit  # noqa: F401  # fixtures
from tests.fedgalore.tasks import CASES

NAMES = ("north", "south", "west")
WAIT_S = 240.0  # for something that hangs; a machine may be busy
TOP_TWO = "tests.fedgalore.measures.top_two:TopTwo"  # a metric of another package, as each site allows it

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_method"
# Each shares its head with one of the others and its data with another; tests/fedgalore/model/tasks has them too.
_PAIRS = ("numbers of a text", "classes of an image", "a number of an image", "answers in a conversation")
KEYS = ("text", "image", "label", "tokens", "tags", "prompt", "completion", "messages")
TASK_CASES = tuple(case for case in CASES if case not in _PAIRS)


@dataclass(frozen=True)
class Running:
    """A federation, with the calls that tests make to it."""

    federation: LocalFederation
    model: Path

    def document(self, **sections: Any) -> dict[str, Any]:
        """A job with everything in it that could make two runs differ: refreshed bases, weight decay, dropout."""
        document: dict[str, Any] = {
            "name": "e2e",
            "model": {"source": str(self.model), "num_labels": 3},
            "data": {"name": "topics", "max_length": 16},
            "method": {"rank": 4, "update_proj_gap": 3, "state_sync": "ajive"},
            "rounds": {"count": 3, "min_clients": 3, "deadline_s": WAIT_S},
            "local": {"steps": 4, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0.1},
            "evaluation": {"split": "test"},
            "seed": 7,
        }
        for name, value in sections.items():
            merge = isinstance(value, dict) and "kind" not in value
            document[name] = {**document.get(name, {}), **value} if merge else value
        return document

    def post(self, **sections: Any) -> str:
        """Posts a job. Returns its id."""
        answer = self.ask("POST", "jobs", json=self.document(**sections))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self.federation.http() as http:
            return http.request(method, f"/api/v1/{path}", **arguments)

    def url(self, path: str) -> str:
        return f"{self.federation.rest_url}/api/v1/{path}"

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, job_id: str, until: Callable[[Any], bool]) -> Any:
        """Waits until `until` holds for the job. Returns the job."""
        end = time.monotonic() + WAIT_S
        while not until(job := self.get(f"jobs/{job_id}")):
            assert time.monotonic() < end, f"still {job['status']}: {job['reason']}"
            time.sleep(0.1)
        return job

    def downloaded(self, job_id: str, folder: Path, auto: Any) -> dict[str, torch.Tensor]:
        """The weights of the job's model, downloaded into `folder` and loaded by transformers."""
        answer = self.ask("GET", f"jobs/{job_id}/model")
        assert answer.status_code == 200
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # early 3.11 has none
            tar.extractall(folder)
        (model,) = folder.iterdir()
        return dict(auto.from_pretrained(model).state_dict())

    @contextmanager
    def held_by(self, name: str, job_id: str) -> Iterator[None]:
        """A block in which a round of the job waits for this agent, whose process stands still."""
        process = self.federation.agents[name].popen
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            self.wait(job_id, lambda job: job["round"] and _waits_for(name, job["round"]))
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def restart_agent(self, name: str) -> None:
        """Kills the agent's process and starts another one."""
        self.federation.agents[name].stop(signal.SIGKILL)
        self.federation.agents[name].start()

    def simulated(
        self, held_out: Mapping[str, Sequence[dict[str, Any]]] | None = None, **sections: Any
    ) -> SimulationResult:
        """The same job over the same agents' data in this process."""
        spec = parse(self.document(**sections))
        folder = Path(spec.model.source)
        sites = []
        for config in sorted((self.federation.root / "agents").glob("*/agent.yaml")):
            settings = load(config)
            local = read_all({spec.data.name: settings.data[spec.data.name]})[spec.data.name]
            assert local.test is not None
            sites.append(Site(settings.name, local.train.examples, local.test.examples))
        return simulate(spec, folder, sites, held_out=held_out)


def different(weights: Mapping[str, torch.Tensor], simulated: SimulationResult) -> list[str]:
    """Names of trained parameters and buffers whose bits are not those of the simulation's end."""
    trained, held = simulated.task.plan.parts(), simulated.task.model.state_dict()
    assert trained.keys() <= weights.keys()
    return [name for name in trained if not torch.equal(weights[name], held[name])]


def _waits_for(name: str, current: Any) -> bool:
    return current["phase"] == "REPORTING" and not current["participants"][name]["reported"]


def ended(job: Any) -> bool:
    return job["status"] in ("COMPLETED", "FAILED", "CANCELLED", "PAUSED")


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(1)  # as the agents: another number of threads may round differently


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Running]:  # noqa: F811
    """One for all that need no credentials: what its processes import takes most of such a test's time."""
    folder = tmp_path_factory.mktemp("federation")
    agents = [agent | {"metrics": [TOP_TWO]} for agent in agents_of(folder)]
    for seed, agent in enumerate(agents):
        agent["data"] |= {named(case): data_of(case, agent["name"], seed, folder) for case in TASK_CASES}
    site = os.pathsep.join(filter(None, (str(install(folder / "site")), os.environ.get("PYTHONPATH"))))
    with LocalFederation(folder / "run", agents, environment={"PYTHONPATH": site}) as federation:
        yield Running(federation, tiny_bert)


def agents_of(folder: Path) -> list[dict[str, Any]]:
    """Three sites' agents with data in `folder`: each knows two of three classes."""
    agents = []
    for seed, name in enumerate(NAMES):
        topics: dict[str, Any] = {"text": "text", "label": "label"}
        answers: dict[str, Any] = {"prompt": "prompt", "completion": "completion"}
        images: dict[str, Any] = {} if seed else {"image": "file", "label": "colour"}  # a table at the first site
        for split, count in (("train", 40 + 10 * seed), ("test", 20)):
            # each site knows two of the three classes
            rows = [row for row in sentences(2 * count, 10 * seed + len(split)) if row["label"] != seed][:count]
            topics[split] = _written(folder / f"{name}-{split}.jsonl", rows)
            answers[split] = _written(folder / f"{name}-{split}-questions.jsonl", questions(count, seed))
            known = tuple(colour for index, colour in enumerate(COLOURS) if index != seed)
            images[split] = str(folder / f"{name}-{split}")
            pictures = squares(Path(images[split]), count, 10 * seed + len(split), known)
            if "image" in images:
                root = folder.resolve()
                rows = [{"file": str(Path(e["image"]).relative_to(root)), "colour": e["label"]} for e in pictures]
                images[split] = _written(folder / f"{name}-{split}-pictures.jsonl", rows)
        data = {"topics": topics, "questions": answers, "squares": images}
        agents.append({"name": name, "threads": 1, "data": data, "policy": {"least_examples": 24}})
    return agents


def named(case: str) -> str:
    return case.replace(" ", "-")


def written(path: Path, examples: list[Example]) -> str:
    """A table of the examples; images are named relative to it."""
    with path.open("w") as file:
        for example in examples:
            row = {key: value for key, value in example.items() if key in KEYS}
            if "image" in row:
                row["image"] = str(Path(row["image"]).relative_to(path.parent.resolve()))
            file.write(json.dumps(row) + "\n")
    return str(path)


def data_of(case: str, site: str, seed: int, folder: Path) -> dict[str, Any]:
    """One data set of an agent: its files, and columns that are named as an example's keys are."""
    data: dict[str, Any] = {}
    for split, count in (("train", 60), ("test", 30)):
        parts = folder / f"{site}-{named(case)}-{split}"
        examples = CASES[case].make(count, 10 * seed + len(split), parts)
        data[split] = written(folder / f"{parts.name}.jsonl", examples)
    return data | {key: key for key in KEYS if key in examples[0]}


def install(folder: Path, entry_points: dict[str, str] | None = None) -> Path:
    """The example's package as pip lays it into a folder for `PYTHONPATH`, with its own entry points or with these."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["fedgalore.methods"] if entry_points is None else entry_points
    shutil.copytree(EXAMPLE / "sign_mean", folder / "sign_mean", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / f"sign_mean-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sign-mean\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[fedgalore.methods]", *lines]) + "\n")
    return folder
