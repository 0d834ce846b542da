"""A round of dense updates, ours beside Flower's: `python -m benchmarks.peer_round --peer FOLDER [--clients 2 4]`.

Federated averaging of about 256 MB, float32, over loopback sockets; no client trains: it fetches, draws random numbers
and sends. Ours: a coordinator with aggregator and Redis, and clients with the agents' transport, a process each; every
update is checked, hashed and synced to disk. Flower: a SuperLink, a SuperNode a client, and the app in `peer_app`; in a
virtual environment in FOLDER, which is made if it is missing. What is measured is the time from one round's mean to the
next, the quickest of the rounds; and of ours the most anonymous memory that coordinator, aggregator and Redis have
together (RssAnon in /proc). Without `--peer` ours runs alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from benchmarks.aggregation import anonymous_bytes, watched
from benchmarks.kills.flower import CONFIG, python_of, version_of
from benchmarks.light_clients import LightClient, coordinator, document, make_model, post, rounds_of, wait_for_version
from fedgalore.process.redis_server import free_port
from fedgalore_cli.local import LocalFederation, Process

APP = Path(__file__).parent / "peer_app"
BARS = {2: 0.33, 4: 0.25}  # of Flower's time
ARRAYS = 16
METHOD = {"kind": "fedavg"}
WIRE = {"bits": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="folder of Flower's virtual environment")
    parser.add_argument("--clients", type=int, nargs="+", default=list(BARS))
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    python = python_of(options.peer) if options.peer else None
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Flower {version_of(python)}" if python else "without Flower")
    print("clients   bytes each   memory       ours     Flower   ratio   bar")
    for count in options.clients:
        with tempfile.TemporaryDirectory() as name:
            model = make_model(Path(name) / "model", options.hidden, options.layers)
            size, memory, ours = our_rounds(Path(name), model, count, options.rounds)
            line = f"{count:7} {size:12,} {memory / 1e6:5.0f} MB {min(ours):8.2f} s"
            if python is not None:
                theirs = flower_rounds(Path(name) / "flower", python, count, options.rounds, size)
                ratio, bar = min(ours) / min(theirs), BARS.get(count)
                line += f" {min(theirs):8.2f} s {ratio:7.2f}"
                line += f"   {bar}: {'met' if ratio <= bar else 'missed'}" if bar else ""
        print(line, flush=True)


def our_rounds(folder: Path, model: Path, count: int, rounds: int) -> tuple[int, float, list[float]]:
    """An update's bytes, the most anonymous memory of the servers in bytes, and seconds from commit to commit."""
    threads = os.cpu_count() or 1  # what a coordinator takes by itself
    with coordinator(folder / "federation", threads) as (federation, address):
        job = post(federation, document(model, count, rounds, METHOD, wire=WIRE))
        context = multiprocessing.get_context("spawn")
        clients = [
            context.Process(target=_client, args=(f"c{number}", address, folder / f"c{number}", rounds), daemon=True)
            for number in range(count)
        ]
        servers, most = children(), list[float]()
        with watched(most, lambda: sum(map(anonymous_bytes, servers))):
            for client in clients:
                client.start()
            wait_for_version(federation, job, rounds)
        for client in clients:
            client.join()
        return (folder / "c0" / "update").stat().st_size, most[0], commits(federation, job)


def children() -> list[int]:
    """The processes that have come of this one, and those that have come of them."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has ended meanwhile
            parents[int(status.parent.name)] = int(status.read_text().rsplit(")", 1)[1].split()[1])
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def commits(federation: LocalFederation, job: str) -> list[float]:
    trained = (each for each in rounds_of(federation, job) if each["kind"] == "train")
    ends = sorted(datetime.fromisoformat(each["phase_at"]["COMMITTED"]) for each in trained)
    return [(after - before).total_seconds() for before, after in pairwise(ends)]


def _client(name: str, address: str, folder: Path, rounds: int) -> None:
    async def play() -> None:
        client = LightClient(name, address, folder)
        await client.register()
        await client.play(rounds)
        await client.close()

    asyncio.run(play())


def flower_rounds(folder: Path, python: Path, count: int, rounds: int, size: int) -> list[float]:
    """Seconds from mean to mean."""
    folder.mkdir()
    home, journal, programs = folder / "home", folder / "journal", python.parent
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }
    port, *others = (free_port() for _ in range(1 + count))
    link = f"127.0.0.1:{port}"
    home.mkdir()
    (home / "config.toml").write_text(CONFIG.format(address=link))

    def started(program: str, name: str, *words: str) -> Process:
        process = Process(name, [str(programs / program), "--insecure", *words], folder / f"{name}.log", environment)
        process.start()
        stack.callback(process.stop)
        return process

    with ExitStack() as stack:
        started("flower-superlink", "link", "--port", str(port), "--disable-runtime-dependency-installation")
        time.sleep(5)
        for number, own in enumerate(others):
            started("flower-supernode", f"node-{number}", "--superlink", link, "--port", str(own))
        time.sleep(3)
        config = f"journal='{journal}' rounds={rounds} clients={count} arrays={ARRAYS} numbers={size // 4 // ARRAYS}"
        run(programs, environment, "run", str(APP), "here", "--run-config", config)
        while len(ends := journal.read_text().split() if journal.exists() else []) < rounds:
            time.sleep(0.5)
        return [float(after) - float(before) for before, after in pairwise(ends)]


def run(programs: Path, environment: dict[str, str], *words: str) -> None:
    """A command of Flower's.

    Raises:
        SystemExit: it did not succeed.
    """
    command: Sequence[str] = [str(programs / "flwr"), *words, "--format", "json"]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    try:
        accepted = json.loads(done.stdout).get("success")
    except json.JSONDecodeError:
        accepted = False
    if not accepted:
        raise SystemExit(f"flwr {' '.join(words)} failed: {done.stdout} {done.stderr}")


if __name__ == "__main__":
    main()
