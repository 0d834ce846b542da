"""What a language model takes of a whole federation: `python -m benchmarks.large_model [--billions 0.27 1.2]`.

Redis, coordinator, aggregator and agents run as processes of their own and train a Llama with random weights, which is
made on the spot, for three rounds. Sizes: `tiny` to try the script, 0.27 and 1.2 billion parameters.

| printed | what |
|---|---|
| memory | the most anonymous memory (RssAnon in /proc) that a process had, less what libraries take, a parameter |
| disk | the most that a work folder of an agent, or the blobs, had on the disk, a parameter |
| bytes | of tensors, up and down of a client and round, from the coordinator's counters |
| seconds | of a round: bringing the version, training and writing the update, the upload, the aggregation |

The floor of an agent's memory is the model: 4 bytes a parameter in float32, 2 in bfloat16. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.aggregation import anonymous_bytes, watched
from benchmarks.peer_round import children
from fedgalore_cli.local import LocalFederation

LIBRARIES = 0.8e9  # bytes that an agent's process has without a model
BARS = {"float32": 5.5, "bfloat16": 3.5}  # bytes a parameter
DISK_BAR = 8.0
ANSWER_S = 300  # a machine whose cores and memory are all taken answers late
WORDS = [f"w{number}" for number in range(2000)]


class Size(NamedTuple):
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int


SIZES = {
    "tiny": Size(2, 64, 192, 4, 2, 2048),
    "0.27": Size(16, 1024, 4096, 16, 16, 32000),
    "1.2": Size(16, 2048, 8192, 32, 8, 128256),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--billions", nargs="+", choices=SIZES, default=["0.27"], help="sizes of the model")
    parser.add_argument("--weights", nargs="+", choices=BARS, default=list(BARS), help="local.weights of the job")
    parser.add_argument("--base", choices=("float32", "bfloat16"), default="bfloat16", help="format of the base model")
    parser.add_argument("--kind", default="fedgalore", help="method.kind")
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="of a round, each of 1 x 64 tokens")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    for billions in options.billions:
        for weights in options.weights:
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                measure(Path(name), billions, weights, options)


def measure(folder: Path, billions: str, weights: str, options: argparse.Namespace) -> None:
    parameters = make_llama(folder / "model", SIZES[billions], options.base)
    title = f"{parameters / 1e9:.3g} billion parameters, base in {options.base}, weights in {weights}"
    print(f"\n{title}, {options.agents} agents, {options.kind}, {os.cpu_count()} cores", flush=True)
    job = document(folder / "model", weights, options)
    with LocalFederation(folder / "federation", agents(folder, options.agents), threads=1) as federation:
        seen: dict[str, float] = defaultdict(float)
        with federation.http() as http, peaks(federation, seen):
            http.timeout = ANSWER_S
            began = time.monotonic()
            url = f"/api/v1/jobs/{http.post('/api/v1/jobs', json=job).raise_for_status().json()['id']}"
            while (found := http.get(url).json())["status"] in ("PENDING", "RUNNING"):
                time.sleep(1)
            took = time.monotonic() - began
            rounds = http.get(f"{url}/rounds?limit=200").json()["rounds"]
        base = sum(path.stat().st_size for path in (folder / "model").iterdir())
        if found["status"] != "COMPLETED":
            raise SystemExit(f"{found['status']}: {found['reason']}")
        show(found, rounds, seen, parameters, weights, took, base)
        show_seconds(rounds)


@contextmanager
def peaks(federation: LocalFederation, seen: dict[str, float]) -> Iterator[None]:
    """While the block runs, the most anonymous memory of each process and the most bytes in each folder, by name."""
    turns = count()
    folders = {f"disk of {name}": federation.root / "agents" / name / "work" for name in federation.agents}
    folders["disk of blobs"] = federation.root / "blobs"

    running: list[int] = []

    def look() -> float:
        turn = next(turns)
        if turn % 100 == 0:
            running[:] = children()
        named = {process.popen.pid: name for name, process in federation.agents.items() if process.popen}
        now: dict[str, float] = defaultdict(float)
        for pid in running:
            try:
                now[named.get(pid, "coordinator, aggregator, Redis")] += anonymous_bytes(pid)
            except (OSError, StopIteration):  # it has ended meanwhile
                continue
        now["all together"] = sum(now.values())
        if turn % 50 == 0:
            now |= {name: on_disk(folder) for name, folder in folders.items()}
        for name, value in now.items():
            seen[name] = max(seen[name], value)
        return now["all together"]

    with watched([], look):
        yield


def on_disk(folder: Path) -> float:
    """Bytes that the files below a folder take; one with several names counts once."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        sizes[status.st_ino] = 512 * status.st_blocks
    return float(sum(sizes.values()))


def show(
    job: dict[str, Any],
    rounds: list[dict[str, Any]],
    seen: dict[str, float],
    parameters: int,
    weights: str,
    took: float,
    base: int,
) -> None:
    print(f"{job['status']} at version {job['model_version']} after {took:.0f} s")
    for name, value in sorted(seen.items()):
        line = f"{name:32} {value / 1e6:8.0f} MB"
        if name.startswith("disk of agent"):
            line += verdict(value / parameters, DISK_BAR)
        elif name.startswith("agent"):
            line += verdict((value - LIBRARIES) / parameters, BARS[weights])
        else:
            line += f"  {value / parameters:6.2f} a parameter"
        print(line)
    trained = [each for each in rounds if each["kind"] == "train" and each["result_version"]]
    clients = sum(len(each["participants"]) for each in trained)
    up, down = (sum(each[way] for each in trained) for way in ("up_bytes", "down_bytes"))
    first = len(trained[0]["participants"]) * base if trained else 0  # each fetches the base model once
    print(f"bytes of a client and round: {up / clients / 1e6:.1f} MB up, {(down - first) / clients / 1e6:.1f} MB down")
    print(f"bytes of the base model, once a client: {base / 1e6:.0f} MB")


def verdict(value: float, bar: float) -> str:
    return f"  {value:6.2f} a parameter   bar {bar}: {'met' if value <= bar else 'missed'}"


def show_seconds(rounds: list[dict[str, Any]]) -> None:
    for each in rounds:
        phases = {name.lower(): seconds for name, seconds in each["phase_s"].items() if seconds > 0.05}
        parts = {name: seconds for name, seconds in each["timings"].items() if seconds > 0.05}
        said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())
        inside = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
        print(f"round {each['number']}: {said} s" + (f" (aggregator: {inside})" if inside else ""))


def document(model: Path, weights: str, options: argparse.Namespace) -> dict[str, Any]:
    method = {"kind": options.kind} | ({"rank": 8} if options.kind != "fedavg" else {})
    local: dict[str, Any] = {"steps": options.steps, "batch_size": 1}
    if weights == "bfloat16":
        local |= {"weights": weights, "precision": "bfloat16"}
    if options.kind != "fedgalore":
        local["learning_rate"] = 1e-4
    return {
        "name": "large",
        "model": {"source": str(model), "task": "causal-lm"},
        "data": {"name": "words", "max_length": 64},
        "method": method,
        "rounds": {"count": options.rounds, "min_clients": options.agents, "deadline_s": 86_400},
        "local": local,
        "evaluation": {"every": 0},
    }


def agents(folder: Path, count: int) -> list[dict[str, Any]]:
    """Configs of sites whose rows fill 64 tokens."""
    configs = []
    for number in range(count):
        draw, path = random.Random(number), folder / "data" / f"{number}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"prompt": words(draw, 32), "completion": words(draw, 40)} for _ in range(16)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"train": str(path), "prompt": "prompt", "completion": "completion"}
        policy = {"least_examples": 1, "least_clients": 1}  # a step of one row is what is measured
        configs.append({"name": f"agent-{number}", "threads": 1, "data": {"words": data}, "policy": policy})
    return configs


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def make_llama(folder: Path, size: Size, dtype: str, *, tied: bool = True) -> int:
    """A Llama with random weights and a tokenizer of words; how many parameters it has. In a process of its own."""
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:  # its memory is gone afterwards
        return pool.apply(_made, (folder, size, dtype, tied))


def _made(folder: Path, size: Size, dtype: str, tied: bool) -> int:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers.utils.logging.disable_progress_bar()
    config = transformers.LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
