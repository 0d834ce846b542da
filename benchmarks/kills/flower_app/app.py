"""A Flower app for `benchmarks.kills`: federated averaging of a text classifier, with a journal of what happened."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

BUCKETS = 4096  # words are hashed
CLASSES = 2
BATCH = 24
RATE = 0.5

server = ServerApp()
client = ClientApp()


def note(config: Any, **entry: Any) -> None:
    """Appends a line to the journal; one write, so that lines of several processes stay whole."""
    with Path(str(config["journal"])).open("a") as file:
        file.write(json.dumps({"at": time.time(), **entry}) + "\n")


class NotedFedAvg(FedAvg):
    """FedAvg that notes each round's end: how many clients are in it, and the digest of its weights."""

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(**options)
        self._config = config

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        held = list(replies)
        arrays, metrics = super().aggregate_train(server_round, held)
        clients = sum(not reply.has_error() for reply in held)
        digest = "" if arrays is None else digest_of(arrays)
        note(self._config, round=server_round, clients=clients, digest=digest)
        return arrays, metrics


def digest_of(arrays: ArrayRecord) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays.to_numpy_ndarrays())).hexdigest()


@server.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = NotedFedAvg(config, fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord([np.zeros((BUCKETS, CLASSES))]), num_rounds=int(config["rounds"])
    )


@client.train()
def train(message: Message, context: Context) -> Message:
    """A round's steps of softmax regression; the batches follow from site and round alone."""
    config, site = context.run_config, Path(str(context.node_config["site"]))
    server_round = int(message.content["config"]["server-round"])
    texts, labels = read(site)
    (weights,) = message.content["arrays"].to_numpy_ndarrays()
    chance = np.random.default_rng([server_round, zlib.crc32(site.parent.name.encode())])
    for step in range(1, int(config["steps"]) + 1):
        rows = chance.choice(len(texts), BATCH, replace=False)
        weights = weights - RATE * gradient(weights, texts[rows], labels[rows])
        time.sleep(float(config["step-s"]))
        note(config, site=site.parent.name, round=server_round, step=step)
    metrics = MetricRecord({"num-examples": len(texts)})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=message)


def read(site: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Word counts (examples, BUCKETS) and labels of a site's texts."""
    rows = [json.loads(line) for line in site.read_text(encoding="utf-8").splitlines()]
    counts = np.zeros((len(rows), BUCKETS))
    for number, row in enumerate(rows):
        for word in row["text"].lower().split():
            counts[number, zlib.crc32(word.encode()) % BUCKETS] += 1
    return counts, np.array([row["label"] for row in rows])


def gradient(
    weights: NDArray[np.float64], texts: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The gradient of the mean cross entropy."""
    scores = texts @ weights
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[np.arange(len(labels)), labels] -= 1
    return texts.T @ chances / len(labels)
