"""A Flower app for `benchmarks.peer_round`: federated averaging of dense arrays, with the time of each round's end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


class TimedFedAvg(FedAvg):
    """FedAvg that writes when each round's mean is there."""

    def __init__(self, journal: Path, clients: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        self._journal = journal

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        result = super().aggregate_train(server_round, list(replies))
        with self._journal.open("a") as file:
            file.write(f"{time.time()}\n")
        return result


@server.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    first = ArrayRecord([np.zeros(int(config["numbers"]), np.float32) for _ in range(int(config["arrays"]))])
    strategy = TimedFedAvg(Path(str(config["journal"])), int(config["clients"]))
    strategy.start(grid=grid, initial_arrays=first, num_rounds=int(config["rounds"]), timeout=3600)


@client.train()
def train(message: Message, context: Context) -> Message:
    """The arrays, changed at random."""
    chance = np.random.default_rng()
    arrays = message.content["arrays"].to_numpy_ndarrays()
    changed = [array + chance.random(len(array), np.float32) * np.float32(1e-3) for array in arrays]
    return Message(
        RecordDict({"arrays": ArrayRecord(changed), "metrics": MetricRecord({"num-examples": 10})}), reply_to=message
    )
