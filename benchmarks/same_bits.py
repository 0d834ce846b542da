"""Do two checkouts compute the same? `python -m benchmarks.same_bits --write FILE` in each, then `--compare FILE`.

Runs small seeded jobs, one for each method and for each branch that changes numbers, and prints the SHA-256 of each
job's final weights. A rewrite that changes no behaviour leaves every line as it was. The last job runs through real
processes, is paused, loses its coordinator to SIGKILL and is resumed; it must end with the bits of its simulation.
Hashes are comparable on one machine only, between equal versions of torch.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from fedgalore.records import SimulationResult
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import parse
from fedgalore_cli.local import LocalFederation

WORDS = {
    "weather": ["rain", "sun", "wind", "snow"],
    "music": ["song", "drum", "choir", "tune"],
    "food": ["bread", "soup", "rice", "plum"],
}
CLASSES = tuple(WORDS)
FILLERS = ["the", "a", "some", "more", "today", "please"]
SITES = ("east", "north", "south", "west", "zenith")
SECRET = "5e" * 32  # seeds the noise of the job with privacy
WAIT_S = 240.0

LINEAR = ["query.weight", "key.weight", "value.weight", "dense.weight"]  # of the BERT here

JOBS: dict[str, dict[str, Any]] = {
    "fedgalore, 3 of 5 clients, weight decay": {
        "method": {"kind": "fedgalore", "rank": 4},
        "rounds": {"count": 3, "min_clients": 3},
        "local": {"weight_decay": 0.1},
    },
    "fedgalore, aligned states, refreshed bases": {
        "method": {"kind": "fedgalore", "rank": 4, "state_sync": "ajive", "update_proj_gap": 2},
    },
    "fedgalore, exact factors, average states": {
        "method": {
            "kind": "fedgalore",
            "rank": 4,
            "complement": 0,
            "state_sync": "average",
            "update_proj_gap": 3,
            "client_ranks": {"west": 7},
        },
        "local": {"weight_decay": 0.1},
    },
    "fedgalore, micro-batches, clipped, on a schedule": {
        "method": {"kind": "fedgalore", "rank": 4},
        "local": {"micro_batch_size": 3, "max_grad_norm": 0.5, "schedule": "cosine", "warmup_rounds": 1},
    },
    "fedgalore, shared basis": {
        "method": {"kind": "fedgalore", "rank": 4, "basis": "shared", "state_sync": "ajive"},
        "rounds": {"count": 3},
    },
    "fedgalore, own states, exact way down, clipped": {
        "method": {"kind": "fedgalore", "rank": 4, "state_sync": "local"},
        "server": {"clip_norm": 0.9, "max_examples": 30},
    },
    "fedgalore, narrow way down, median": {
        "method": {"kind": "fedgalore", "rank": 3, "rank_pattern": {"query": 2}},
        "server": {"aggregation": "median", "learning_rate": 0.8},
    },
    "fedgalore, privacy": {
        "method": {"kind": "fedgalore", "rank": 4},
        "privacy": {"clip_norm": 0.5, "noise_multiplier": 0.1},
    },
    "fedavg": {
        "method": {"kind": "fedavg", "target_modules": LINEAR},
        "local": {"weight_decay": 0.1},
        "server": {"drop_norm": 4},
    },
    "fedavg, all weights": {"method": {"kind": "fedavg"}},
    "fedavg, momentum, trimmed mean": {
        "method": {"kind": "fedavg", "global_momentum": 0.6, "target_modules": LINEAR},
        "server": {"aggregation": "trimmed_mean"},
    },
    "fedit": {"method": {"kind": "fedit", "rank": 4}},
    "ffa_lora": {"method": {"kind": "ffa_lora", "rank": 4}, "server": {"learning_rate": 0.9}},
    "flora": {"method": {"kind": "flora", "rank": 4, "client_ranks": {"south": 2}}},
    "flora, momentum": {"method": {"kind": "flora", "rank": 4, "global_momentum": 0.6}},
    "fedex_lora": {"method": {"kind": "fedex_lora", "rank": 2}, "local": {"weight_decay": 0.1}},
    "frlora": {"method": {"kind": "frlora", "rank": 4}},
    "fedsvd": {"method": {"kind": "fedsvd", "rank": 4}, "server": {"learning_rate": 0.9}},
    "language model": {
        "model": {"task": "causal-lm", "num_labels": None},
        "method": {"kind": "fedgalore", "rank": 4},
        "data": {"name": "questions"},
        "evaluation": {"exact_match": "text", "max_new_tokens": 4},
    },
    "language model, fedex_lora": {
        "model": {"task": "causal-lm", "num_labels": None},
        "method": {"kind": "fedex_lora", "rank": 2},
        "data": {"name": "questions"},
    },
}
RESUMED: dict[str, Any] = {
    "name": "resumed",
    "method": {"kind": "fedgalore", "rank": 4, "state_sync": "ajive"},
    "rounds": {"count": 4, "min_clients": 2, "deadline_s": 60},
}


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each job. Returns 1 when a hash differs from the file's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_bits", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the hashes as JSON")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with hashes that --write wrote")
    parser.add_argument("--only", metavar="WORD", default="", help="only jobs whose name holds this word")
    options = parser.parse_args(arguments)
    before = json.loads(options.compare.read_text()) if options.compare else {}
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        bases = _bases(Path(scratch))
        jobs: dict[str, Callable[[], str]] = {
            name: lambda sections=sections: _hash_of(_simulated(bases, **sections))  # type: ignore[misc]
            for name, sections in JOBS.items()
        }
        jobs["paused, killed and resumed"] = lambda: _resumed(bases, Path(scratch))
        hashes: dict[str, str] = {}
        for name in (name for name in jobs if options.only in name):
            started = time.perf_counter()
            hashes[name] = jobs[name]()
            known = before.get(name)
            verdict = "" if known is None else "  same" if known == hashes[name] else "  DIFFERENT"
            print(f"{hashes[name][:16]}  {time.perf_counter() - started:6.1f} s  {name}{verdict}", flush=True)
    if options.write:
        options.write.write_text(json.dumps(hashes, indent=1) + "\n")
    return int(any(before.get(name, digest) != digest for name, digest in hashes.items()))


def _document(bases: Mapping[str, Path], **sections: Any) -> dict[str, Any]:
    """A job document: small defaults, with the given sections merged over them."""
    document: dict[str, Any] = {
        "name": "same-bits",
        "model": {"task": "sequence-classification", "num_labels": 3},
        "data": {"name": "topics", "max_length": 16},
        "rounds": {"count": 2, "min_clients": 5},
        "local": {"steps": 4, "batch_size": 8, "learning_rate": 0.01},
        "seed": 7,
    }
    for name, value in sections.items():
        merge = isinstance(value, dict) and name in document
        document[name] = {**document[name], **value} if merge else value
    document["model"]["source"] = str(bases[document["model"]["task"]])
    return {key: value for key, value in document.items() if value is not None}


def _simulated(bases: Mapping[str, Path], sites: int = len(SITES), **sections: Any) -> SimulationResult:
    spec = parse(_document(bases, **sections))
    chosen = [Site(name, *_shards(seed, spec.model.task)) for seed, name in enumerate(SITES[:sites])]
    return simulate(spec, Path(spec.model.source), chosen, secret=SECRET)


def _shards(seed: int, task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A site's training and test examples; each site lacks one of the three classes."""
    known = [name for index, name in enumerate(CLASSES) if index != seed % 3]
    train, test = _examples(24 + 8 * seed, seed, known), _examples(10, 100 + seed, known)
    if task != "causal-lm":
        return train, test
    return _as_questions(train), _as_questions(test)


def _examples(count: int, seed: int, classes: list[str]) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    examples = []
    for row in range(1, count + 1):
        name = chance.choice(classes)
        words = chance.choices(WORDS[name], k=4) + chance.choices(FILLERS, k=2)
        chance.shuffle(words)
        examples.append({"row": row, "text": " ".join(words), "text_pair": None, "label": CLASSES.index(name)})
    return examples


def _as_questions(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"row": e["row"], "prompt": e["text"], "completion": CLASSES[e["label"]]} for e in examples]


def _hash_of(result: SimulationResult) -> str:
    return _digest(result.task.weights())


def _digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _resumed(bases: Mapping[str, Path], scratch: Path) -> str:
    """The hash of a job that was paused, lost its coordinator and went on, over real processes.

    Raises:
        RuntimeError: the job did not end with the weights of its simulation.
    """
    simulated = _simulated(bases, sites=2, **RESUMED)
    with LocalFederation(scratch / "federation", [_agent(scratch, seed) for seed in range(2)]) as federation:

        def ask(method: str, path: str, **content: Any) -> httpx.Response:
            with federation.http() as http:
                return http.request(method, f"/api/v1/jobs{path}", timeout=60, **content).raise_for_status()

        def wait(until: Callable[[Any], bool]) -> Any:
            end = time.monotonic() + WAIT_S
            while not until(job := ask("GET", f"/{job_id}").json()):
                if time.monotonic() > end:
                    raise RuntimeError(f"the job is still {job['status']} after {WAIT_S:g} s: {job['reason']}")
                time.sleep(0.1)
            return job

        job_id = ask("POST", "", json=_document(bases, **RESUMED)).json()["id"]
        wait(lambda job: (job["model_version"] or 0) >= 1)
        ask("POST", f"/{job_id}/pause")
        wait(lambda job: job["round"] is None)
        federation.stop_coordinator(signal.SIGKILL)
        federation.start_coordinator()
        ask("POST", f"/{job_id}/resume")
        job = wait(lambda job: job["status"] not in ("RUNNING", "PENDING"))
        if job["status"] != "COMPLETED":
            raise RuntimeError(f"the job is {job['status']}: {job['reason']}")
        answer = ask("GET", f"/{job_id}/model")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        member = next(item for item in tar.getmembers() if item.name.endswith("model.safetensors"))
        content = tar.extractfile(member)
        assert content is not None
        (scratch / "downloaded.safetensors").write_bytes(content.read())
    downloaded = load_file(scratch / "downloaded.safetensors")
    trained = {name: downloaded[name] for name in simulated.task.weights()}
    if _digest(trained) != _hash_of(simulated):
        raise RuntimeError("the resumed job ended with other bits than its simulation")
    return _digest(trained)


def _agent(scratch: Path, seed: int) -> dict[str, Any]:
    """The config of an agent, whose files are written here."""
    files = {}
    for split, rows in zip(("train", "test"), _shards(seed, "sequence-classification"), strict=True):
        path = scratch / f"{SITES[seed]}-{split}.jsonl"
        path.write_text("".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows))
        files[split] = str(path)
    data = {"topics": {**files, "text": "text", "label": "label"}}
    policy = {"least_examples": 8, "least_evaluation_examples": 4}
    return {"name": SITES[seed], "threads": 1, "data": data, "policy": policy}


def _bases(folder: Path) -> dict[str, Path]:
    """A tiny seeded encoder and a tiny seeded language model with tokenizers, by task."""
    torch.manual_seed(0)
    encoder, decoder = folder / "bert", folder / "gpt2"
    tokenizer = _tokenizer(template=True)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, initializer_range=0.1, **size)
    transformers.BertModel(bert).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    tokenizer = _tokenizer(template=False)
    gpt2 = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=3, eos_token_id=3
    )
    transformers.GPT2LMHeadModel(gpt2).save_pretrained(decoder)
    tokenizer.save_pretrained(decoder)
    return {"sequence-classification": encoder, "causal-lm": decoder}


def _tokenizer(template: bool) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *CLASSES, *FILLERS, *(word for group in WORDS.values() for word in group)]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} if template else {"eos_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **names)


if __name__ == "__main__":
    sys.exit(main())
