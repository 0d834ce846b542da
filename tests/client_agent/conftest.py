"""A coordinator for agents to talk to: real Redis, real engine and ticks, the real gRPC door on a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from coordinator import driver
from coordinator.doors.doorkeeper import Doorkeeper
from coordinator.doors.grpc import server as grpc_server
from coordinator.engine.assembly import Engine, assemble
from coordinator.store.audit import AuditTrail
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_credential_store import RedisCredentialStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.process.redis_server import free_port


@dataclass
class Coordinator:
    """Without the REST door and the aggregator. `stop` and `start` restart its door on the same port."""

    engine: Engine
    blobs: DirectoryBlobStore
    doorkeeper: Doorkeeper
    trail: AuditTrail
    port: int
    server: grpc_server.RunningServer | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.server = await grpc_server.serve(
            self.engine.agents, self.blobs, self.doorkeeper, self.trail, "127.0.0.1", self.port
        )

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0)
            self.server = None


@asynccontextmanager
async def replica(redis_url: str, folder: Path) -> AsyncIterator[Coordinator]:
    """A coordinator whose door is not open yet; any number of them may share Redis and folder."""
    store = RedisStateStore(redis_url)
    engine, trail = assemble(store, presence_s=3), AuditTrail(store.connection, 1000)
    credentials = RedisCredentialStore(redis_url)
    blobs = DirectoryBlobStore(folder / "blobs")
    coordinator = Coordinator(engine, blobs, Doorkeeper(credentials), trail, free_port())
    ticks = asyncio.create_task(driver.tick(engine.driver))
    try:
        yield coordinator
    finally:
        ticks.cancel()
        await asyncio.gather(ticks, return_exceptions=True)
        await coordinator.stop()
        await engine.close()
        await credentials.close()


@pytest.fixture
async def away(redis_url: str, tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with replica(redis_url, tmp_path) as coordinator:
        yield coordinator


@pytest.fixture
async def coordinator(away: Coordinator) -> Coordinator:
    await away.start()
    return away


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    """What is logged during the test."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BERT of one layer with random weights and a vocabulary of words, as `save_pretrained` writes it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "fine", "poor", "film", "food", "the", "was", "very"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny-bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_reviews(path: Path, count: int = 16, labels: tuple[int | str, int | str] = (0, 1)) -> Path:
    """A JSONL file of reviews, the bad ones with the first label, the good ones with the second."""
    rows = []
    for i in range(count):
        word = ("bad", "good", "poor", "fine")[i % 4]
        text = f"the {('film', 'food')[i // 4 % 2]} was {'very ' * (i // 8 % 2)}{word}"
        rows.append(json.dumps({"text": text, "label": labels[i % 2]}))
    path.write_text("\n".join(rows) + "\n")
    return path
