"""Clients that train nothing: they take tasks, fetch cuts and send updates of random numbers over real sockets.

For benchmarks of the coordinator. Each is a coroutine with the agents' own transport.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from client_agent.cache import Cache
from client_agent.errors import RoundOver
from client_agent.transport import Transport
from client_agent.version import trail_of
from fedgalore.maths.compression import rounded
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import ref_of_file
from fedgalore.spec.job import JobSpec, parse
from fedgalore.spec.layout import UPDATE_FORMAT, update_tensors
from fedgalore.spec.plan import TrainingPlan
from fedgalore_cli.local import LocalFederation
from protos import federation_pb2 as pb
from protos.codec import SafetensorsWriter

DATASET = "nothing"
EXAMPLES = 10
WAIT_S = 20.0


class LightClient:
    """A client with its files in a folder."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.name, self._folder = name, folder
        self._cache = Cache(folder)
        self._transport = Transport(address, name)
        self._held: str | None = None

    async def close(self) -> None:
        await self._transport.close()

    async def register(self) -> None:
        await self._transport.register({DATASET: EXAMPLES})

    async def next_task(self) -> pb.Task:
        """The next task that is no check; it answers those."""
        while True:
            task = await self._transport.next_task(WAIT_S)
            if task is not None and task.kind != pb.Task.KIND_CHECK:
                return task
            if task is not None:
                facts = pb.SiteFacts(examples=EXAMPLES, test_examples=EXAMPLES, classes=2, longest=1)
                answer = pb.ReportCheckRequest(client=self.name, job_id=task.job_id, facts=facts)
                await self._transport.report_check(answer)

    async def fetch(self, task: pb.Task) -> None:
        """The cuts since the client's last task, or the checkpoint, as an agent would fetch them."""
        trail = trail_of(task.chain)
        held = self._held or (trail.earlier.start if task.chain.starts_at_version_0 else None)
        for blob in trail.fetched(trail.way(held)):
            path = await self._transport.download(blob, self._cache, task.job_id, task.round)
            path.unlink()
        self._held = trail.chain.id

    def write(self, task: pb.Task) -> tuple[Path, BlobRef]:
        """An update of random numbers."""
        path = self._folder / "update"
        spec, plan = parse(json.loads(task.spec_json)), TrainingPlan.from_dict(json.loads(task.plan_json))
        write_update(path, spec, plan, task.job_id, self.name, task.model_version + 1)
        return path, ref_of_file(path)

    async def submit(self, task: pb.Task, update: tuple[Path, BlobRef]) -> None:
        """Delivers an update; one that comes when the round has its goal counts for nothing."""
        try:
            await self._transport.submit(*update, task.job_id, task.round)
        except RoundOver as over:
            print(f"{self.name}: {over}")

    async def evaluate(self, task: pb.Task) -> None:
        """Answers an evaluation with made-up numbers."""
        evaluation = pb.Evaluation(
            model_version=task.model_version,
            examples=EXAMPLES,
            metrics={"loss": 0.5, "accuracy": 0.5},
            counts={name: pb.Counts(values=(5.0, 10.0)) for name in ("loss", "accuracy")},
        )
        request = pb.ReportProgressRequest(
            client=self.name, job_id=task.job_id, round=task.round, stage="evaluate", evaluation=evaluation
        )
        await self._transport.report(request)

    async def play(self, rounds: int) -> None:
        """So many rounds of training."""
        for _ in range(rounds):
            task = await self.next_task()
            await self.fetch(task)
            await self.submit(task, self.write(task))


def write_update(path: Path, spec: JobSpec, plan: TrainingPlan, job_id: str, client: str, version: int) -> None:
    """A valid update of random numbers."""
    tensors = update_tensors(spec, plan, client, version)
    metadata = {
        "format": UPDATE_FORMAT,
        "job": job_id,
        "round": str(version),
        "client": client,
        "num_examples": str(EXAMPLES),
        "decay": "1.0",
        "metrics": json.dumps({"train_loss": 0.5}),
    }
    with SafetensorsWriter(path, tensors, metadata) as writer:
        for name, tensor in tensors.items():
            shape = tensor.quantization.shape if tensor.quantization else tensor.shape
            value = torch.rand(shape).mul_(1e-3)
            writer.write(name, rounded(value, tensor.quantization).wire.numpy())


def make_model(folder: Path, hidden: int, layers: int) -> Path:
    """A BERT with random weights, of which almost all are in linear layers, and a tokenizer of a few words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers.utils.logging.disable_progress_bar()
    words = {
        word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "some", "words"))
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=4 * hidden,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@contextmanager
def coordinator(folder: Path, threads: int = 1) -> Iterator[tuple[LocalFederation, str]]:
    """Redis, a coordinator and its aggregator as processes, without agents; and the address of the agents' door."""
    with LocalFederation(folder, [], threads) as federation:
        ports = json.loads((folder / "ports.json").read_text())
        yield federation, f"127.0.0.1:{ports['grpc']}"


def document(model: Path, clients: int, rounds: int, method: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A job that waits for all of the clients in every round."""
    return {
        "name": "light",
        "model": {"source": str(model), "num_labels": 2},
        "data": {"name": DATASET, "max_length": 16},
        "method": method,
        "rounds": {"count": rounds, "min_clients": clients, "selection_wait_s": 60, "deadline_s": 3600},
        "local": {"learning_rate": 1e-3},
        "evaluation": {"every": 0},
        **more,
    }


def post(federation: LocalFederation, job: dict[str, Any]) -> str:
    """The posted job's path at the REST door."""
    with federation.http() as http:
        answer: httpx.Response = http.post("/api/v1/jobs", json=job)
        if answer.is_error:
            raise SystemExit(answer.text)
        return f"/api/v1/jobs/{answer.json()['id']}"


async def registered(count: int, address: str, folder: Path) -> list[LightClient]:
    """So many clients, known to the coordinator."""
    width = len(str(count))
    clients = [LightClient(f"c{number:0{width}}", address, folder / f"c{number}") for number in range(count)]
    await asyncio.gather(*(client.register() for client in clients))
    return clients


def rounds_of(federation: LocalFederation, job: str) -> list[dict[str, Any]]:
    """The job's closed rounds."""
    with federation.http() as http:
        found: list[dict[str, Any]] = http.get(f"{job}/rounds?limit=200").raise_for_status().json()["rounds"]
        return found


def wait_for_version(federation: LocalFederation, job: str, version: int) -> None:
    """Returns once the job has this version."""
    with federation.http() as http:
        while (found := http.get(job).json())["model_version"] != version:
            if found["status"] in ("FAILED", "PAUSED"):
                raise SystemExit(found["reason"])
            time.sleep(0.1)
