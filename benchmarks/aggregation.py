"""What an aggregation costs, as the aggregator does it: `python -m benchmarks.aggregation [demo llama 8b dense]`.

Updates are drawn, written into a blob store of their own, and aggregated by `coordinator.aggregator.compute`: files are
read and hashed, tensors combined, and what goes down and what it leaves out written, hashed and synced. There is what
an earlier round left out, as in all rounds but the first. A line a case tells

- wall and processor seconds of a round, and the most anonymous memory of the process (RssAnon in /proc/self/status,
  every 5 ms) with and without what it takes before: torch and the code. The system takes mapped files back when it
  likes, so they do not count;
- the plain way: processor seconds to decode each client's change into a matrix, to add them, and to decompose the sum
  (its Gram matrix, float64). One matrix of each shape is taken, and counts as often as the model has it. In `dense`
  nothing is decomposed: the plain way reads, adds and writes the same bytes in float32;
- floors: the SHA-256 of all bytes that are read and written, and the arithmetic of the cut: the multiplications of
  its large products (`fedgalore.maths.factors`), at the rate of one product of 1024 x 1024 matrices in float32.

Cases: `demo` has the matrices of MiniLM (22 million parameters) and 4 clients; `llama` those of a Llama of 0.27 billion
and 1 or 4 clients; `8b` those of Llama 3 8B and 16 clients, 3 GB on disk; `dense` is `fedavg` with 256 MB from each of
2, 4, 8 and 16 clients, up to 6 GB on disk. Files are deleted at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from coordinator.aggregator.compute import StoredVersion, aggregate
from coordinator.models.checkpoint import map_tensors
from coordinator.state import job as jobs
from coordinator.state.job_state import Job, Prepared
from coordinator.state.round_state import ModelVersion, Participant, Phase, Round, UpdateReceipt
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.chain import Cut
from fedgalore.maths.compression import rounded
from fedgalore.maths.factors import OVERSAMPLING, POWER_ITERATIONS
from fedgalore.maths.quantization import told_by
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec, parse
from fedgalore.spec.plan import Dense, Target, TensorSpec, TrainingPlan
from protos.codec import SafetensorsWriter

CPU = torch.device("cpu")
EVERY_S = 0.005
MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Case:
    """A model's matrices, and how many clients send changes of them."""

    name: str
    shapes: tuple[tuple[int, int], ...]
    clients: int
    method: dict[str, Any] = field(default_factory=lambda: {"kind": "fedgalore", "rank": 8})
    head: tuple[int, int] | None = None

    @property
    def spec(self) -> JobSpec:
        return parse(
            {
                "name": "aggregation",
                "model": {"source": "models/drawn", "num_labels": 2},
                "data": {"name": "drawn"},
                "method": self.method,
                "rounds": {"count": 3, "min_clients": 1},
                "local": {"steps": 10, "batch_size": 2, "learning_rate": 1e-3},
            }
        )

    @property
    def plan(self) -> TrainingPlan:
        rank = self.method.get("rank", 0)
        targets = tuple(Target(f"matrix.{n}.weight", shape, rank) for n, shape in enumerate(self.shapes))
        return TrainingPlan(targets, (Dense("head.weight", self.head),) if self.head else ())


def layers(count: int, hidden: int, kv: int, inner: int) -> tuple[tuple[int, int], ...]:
    """The matrices of a Llama."""
    attention = ((hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden))
    return count * (*attention, (inner, hidden), (inner, hidden), (hidden, inner))


def cases(deep: int) -> dict[str, list[Case]]:
    mini = 6 * (4 * ((384, 384),) + ((1536, 384), (384, 1536)))
    small, large = layers(16, 1024, 1024, 4096), layers(deep, 4096, 1024, 14336)
    dense = 16 * ((2048, 2048),)
    share = "" if deep == 32 else f", {deep} of 32 layers"
    return {
        "demo": [Case("demo, 22M, 4 clients", mini, 4, head=(4, 384))],
        "llama": [Case(f"0.27 billion, {count} of 1 or 4 clients", small, count) for count in (1, 4)],
        "8b": [Case(f"8B{share}, 16 clients", large, 16)],
        "dense": [Case(f"fedavg 256 MB x {count}", dense, count, {"kind": "fedavg"}) for count in (2, 4, 8, 16)],
    }


class House:
    """A job whose round waits for its aggregation, with all its files."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.spec, self.plan = case, case.spec, case.plan
        # the coordinator's, which takes updates, and the aggregator's, which knows what itself has written
        self.door, self.blobs = DirectoryBlobStore(folder / "blobs"), DirectoryBlobStore(folder / "blobs")
        self.folder = folder
        names = [f"client-{number:02}" for number in range(case.clients)]
        self.updates = [self._update(name, seed) for seed, name in enumerate(names)]
        residue = layout.residue_tensors(self.spec, self.plan)
        self.residue = self._put(self.blobs, residue, layout.RESIDUE_FORMAT, 99) if residue else None
        receipts = {
            name: Participant(receipt=UpdateReceipt(blob, 10 + 3 * number, {}))
            for number, (name, blob) in enumerate(zip(names, self.updates, strict=True))
        }
        prepared = Prepared(self.plan.to_dict(), (), (), ModelVersion.first(self._weights()))
        chain = prepared.model.chain.then(Cut(1, self.updates[0])) if self.residue else prepared.model.chain
        model = ModelVersion(len(chain.cuts), chain, residue=self.residue)
        held = Round(2, "train", model.version, Phase.AGGREGATION, "", 0.0, False, participants=receipts)
        self.job: Job = replace(jobs.create("job", self.spec, 0.0), prepared=prepared, model=model, round=held)

    def _update(self, client: str, seed: int) -> BlobRef:
        tensors = layout.update_tensors(self.spec, self.plan, client, 2)
        return self._put(self.door, tensors, layout.UPDATE_FORMAT, seed)

    def _put(self, blobs: DirectoryBlobStore, tensors: dict[str, TensorSpec], format: str, seed: int) -> BlobRef:
        """A file of drawn tensors; those of equal shape are equal, which spares the time to draw each."""
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[tuple[Any, ...], Tensor] = {}
        path = self.folder / "file"
        with SafetensorsWriter(path, tensors, {"format": format, "decay": "0.999"}) as writer:
            for name, tensor in tensors.items():
                code = tensor.quantization
                shape = code.shape if code else tensor.shape
                key = (name.rsplit("/", 1)[-1], shape)
                if key not in drawn:
                    drawn[key] = rounded(_change(shape, generator), code).wire
                writer.write(name, drawn[key].numpy())
        return blobs.put_file(path, move=True)

    def _weights(self) -> BlobRef:
        """Of version 0. Only the dense way reads them; the others' are a file of their size, with nothing in it."""
        tensors = layout.weights_tensors(self.spec, self.plan, 0)
        if self.spec.method.cuts:
            blob = BlobRef("0" * 64, layout.size_bytes(tensors))
            path = self.folder / "blobs" / "sha256" / "00" / blob.sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(blob.size_bytes)
            return blob
        return self._put(self.blobs, tensors, layout.WEIGHTS_FORMAT, 100)

    def aggregated(self) -> StoredVersion:
        return aggregate(self.job, self.blobs, CPU)

    def floor_s(self) -> float:
        """Seconds to hash all that a round has to read and write."""
        read = [*self.updates, *filter(None, [self.residue])]
        down = layout.aggregate_tensors(self.spec, self.plan, ["a"] * self.case.clients, 2)
        written = layout.size_bytes(down) + (self.residue.size_bytes if self.residue else 0)
        whole = 0 if self.spec.method.cuts else layout.size_bytes(self.plan.weights())  # those before
        some = bytes(64 * 2**20)
        before = time.process_time()
        hashlib.sha256(some)
        return (time.process_time() - before) / len(some) * (sum(b.size_bytes for b in read) + written + whole)

    def products_s(self) -> float:
        """Seconds of one thread for the large products of the cut, at the peak of this machine."""
        side = 1024
        matrix = torch.randn(side, side)
        best = min(_timed(lambda: matrix @ matrix) for _ in range(9))
        return best * sum(map(self._products, self.plan.targets)) / side**3

    def _products(self, target: Target) -> int:
        """Multiplications: of the range finder, of its core and of what goes with the rounded directions."""
        rank = layout.cut_rank(self.spec, target)
        if rank is None:
            return 0
        update = layout.update_tensors(self.spec, TrainingPlan((target,), ()), "a", 2)
        code = update[f"{target.name}/left"].quantization
        columns = rank + len(self.updates) * (code.shape if code else update[f"{target.name}/left"].shape)[1]
        width, sides = min(rank + OVERSAMPLING, target.d), target.d + target.k
        iterated = 2 * POWER_ITERATIONS + 1
        cut = columns * (width * ((iterated + 1) * sides + target.k) + rank * sides)
        return cut + (columns + rank) * width * iterated * sides

    def plain_s(self) -> float:
        """Processor seconds of the plain way."""
        files = [map_tensors(self.blobs, blob.sha256) for blob in self.updates]
        if not self.spec.method.cuts:
            with (self.folder / "plain").open("wb") as file:
                return sum(_timed(partial(self._added, files, target, file)) for target in self.plan.targets)
        times = Counter((target.d, target.k) for target in self.plan.targets)
        first = {(target.d, target.k): target for target in reversed(self.plan.targets)}
        return sum(times[shape] * _timed(partial(self._decomposed, files, target)) for shape, target in first.items())

    def _added(self, files: list[Any], target: Target, file: BinaryIO) -> None:
        first, *others = self._read(files, target, "delta")
        file.write(sum(others, start=first).numpy().tobytes())

    def _read(self, files: list[Any], target: Target, suffix: str) -> list[Tensor]:
        name = f"{target.name}/{suffix}"
        code = layout.update_tensors(self.spec, self.plan, "a", 2)[name].quantization
        tensors = (torch.from_numpy(file.tensor(name)) for file in files)
        return [told_by(tensor.clone(), code) if code else tensor for tensor in tensors]

    def _decomposed(self, files: list[Any], target: Target) -> Tensor:
        lefts, rights = self._read(files, target, "left"), self._read(files, target, "right")
        first, *others = (left.double() @ right.double() for left, right in zip(lefts, rights, strict=True))
        mean = sum(others, start=first) / len(files)
        return torch.linalg.eigh(mean @ mean.mT).eigenvectors[:, -60:].mT @ mean


def _change(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A drawn change whose directions weigh less and less, as a client's do."""
    drawn = torch.randn(shape, generator=generator)
    return drawn * torch.logspace(-2, -4, shape[0])[:, None] if len(shape) == 2 and shape[0] < 300 else drawn / 100


def _timed(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


@contextmanager
def watched(most: list[float], look: Callable[[], float] | None = None) -> Iterator[None]:
    """Appends the most that `look` sees while the block runs; default: anonymous memory of the process, in bytes."""
    look = look or anonymous_bytes
    over = threading.Event()

    def watch() -> None:
        peak = 0.0
        while not over.wait(EVERY_S):
            peak = max(peak, look())
        most.append(peak)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def anonymous_bytes(process: int | str = "self") -> float:
    """Of a process that runs."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def line_of(house: House, plain: bool, threads: int, rounds: int) -> str:
    torch.set_num_threads(threads)
    os.sync()  # what the kernel has to write of the drawn files is none of the round's time
    before = anonymous_bytes()
    most: list[float] = []
    with watched(most):
        seconds = [_clocked(house.aggregated) for _ in range(rounds)]
    wall, processor = map(min, zip(*seconds, strict=True))
    line = f"{house.case.name:<28} {wall:>7.2f} {processor:>7.2f}"
    line += f" {most[0] / MB:>8.0f} {(most[0] - before) / MB:>8.0f} {house.floor_s():>8.2f}"
    torch.set_num_threads(1)  # more of them wait for each other on a busy machine
    line += f" {house.products_s():>8.2f}"
    if plain:
        other = house.plain_s()
        line += f" {other:>8.2f} {processor / other:>8.3f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["demo", "llama", "8b", "dense"], help="of those above")
    parser.add_argument("--layers", type=int, default=32, help="of the 32 of 8b; the case's name says so")
    parser.add_argument("--threads", type=int, default=1, help="of the aggregation")
    parser.add_argument("--rounds", type=int, default=1, help="of which the quickest counts; the first warms up")
    parser.add_argument("--ours-alone", action="store_true", help="without the plain way")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load {load:.1f}, threads: {options.threads}")
    columns = ("wall s", "CPU s", "peak MB", "its own", "hash s", "products", "plain s", "ratio")
    print(f"{'':<28}" + "".join(f" {name:>{7 if place < 2 else 8}}" for place, name in enumerate(columns)))
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")  # none finds the memory that another let go of
    for name in options.cases:
        for case in cases(options.layers)[name]:
            with tempfile.TemporaryDirectory() as folder, context.Pool(1) as draws, context.Pool(1) as measures:
                house = draws.apply(House, (case, Path(folder)))
                print(
                    measures.apply(line_of, (house, not options.ours_alone, options.threads, options.rounds)),
                    flush=True,
                )


if __name__ == "__main__":
    main()
