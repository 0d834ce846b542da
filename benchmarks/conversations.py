"""Sites whose assistants talk about different things: `python -m benchmarks.conversations --data FOLDER`.

FOLDER is a clone of the Schema-Guided Dialogue data set (google-research-datasets/dstc8-schema-guided-dialogue on
GitHub, CC BY-SA 4.0): people and assistants about restaurants, flights, ... Four sites hold the conversations of one
domain each, as `messages` in a JSONL file, and train SmolLM2-135M-Instruct by the chat template of that model. Of the
loss counts what the assistant says. The job names no learning rate.

The script prints each site's loss of the assistant's words before and after, on conversations of the data set's `dev`
part, and the same three turns answered by the model before and after, beside what was said there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from benchmarks.models import prepared
from fedgalore import RoundRecord, Site, SplitFile, parse_job, read_examples, simulate

DOMAINS = ("Restaurants", "Flights", "Services", "Homes")
ROLES = {"USER": "user", "SYSTEM": "assistant"}
Conversation = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="clone of the data set: its train and dev are read")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/fedgalore")
    parser.add_argument("--kind", default="fedgalore", help="method.kind, at rank 8")
    parser.add_argument("--learning-rate", type=float, help="by default the job names none")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--train", type=int, default=200, help="conversations of a site")
    parser.add_argument("--test", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = prepared("smollm2", options.cache)
    document: dict[str, Any] = {
        "name": "conversations",
        "model": {"source": str(model), "task": "causal-lm"},
        "data": {"name": "conversations", "max_length": 384},
        "method": {"kind": options.kind, "rank": 8},
        "rounds": {"count": options.rounds, "min_clients": len(DOMAINS)},
        "local": {"steps": options.steps, "batch_size": 4, "packing": True, "precision": "bfloat16"},
        "evaluation": {"every": options.rounds, "batch_size": 4},
        "server": {"max_weight": None},
    }
    if options.learning_rate is not None:
        document["local"] |= {"learning_rate": options.learning_rate}
    talks = {name: list(conversations(options.data, "dev", name, options.test)) for name in DOMAINS}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sites = [
            Site(
                name,
                _examples(folder / f"{name}.train.jsonl", conversations(options.data, "train", name, options.train)),
                _examples(folder / f"{name}.test.jsonl", talks[name]),
            )
            for name in DOMAINS
        ]
        began = time.monotonic()
        result = simulate(parse_job(document), model, sites, on_round=lambda record: _tell(record, began))
        sent = sum(record.up_bytes for record in result.rounds) / len(sites) / max(1, options.rounds)
        print(f"{sent / 1e6:.2f} MB up a site and round")
        result.task.save(folder / "trained")
        _compare(model, folder / "trained", list(talks.values()))


def conversations(folder: Path, part: str, domain: str, most: int) -> Iterator[Conversation]:
    """The first conversations of a part that are about one domain alone, whoever speaks first left out but the user.

    Raises:
        SystemExit: there are none.
    """
    found = 0
    for path in sorted((folder / part).glob("dialogues_*.json")):
        for dialogue in json.loads(path.read_text(encoding="utf-8")):
            about = {service.partition("_")[0] for service in dialogue["services"]}
            if about == {domain} and found < most:
                found += 1
                yield [{"role": ROLES[turn["speaker"]], "content": turn["utterance"]} for turn in dialogue["turns"]]
    if not found:
        raise SystemExit(f"--data: {folder / part} has no conversations about {domain}; name a clone of the data set")


def _examples(path: Path, talks: Iterator[Conversation] | Sequence[Conversation]) -> Any:
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    return read_examples(SplitFile(path, messages="messages"))


def _tell(record: RoundRecord, began: float) -> None:
    losses = {site: found["loss"] for site, found in (record.evaluation or {}).items()}
    words = ", ".join(f"{site} {loss:.3f}" for site, loss in losses.items())
    print(f"version {record.model_version}, {time.monotonic() - began:.0f} s: {words or 'not evaluated'}", flush=True)


def _compare(before: Path, after: Path, talks: Sequence[Sequence[Conversation]]) -> None:
    """Three turns of as many sites, answered without chance by both models."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(before)
    models = [transformers.AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (before, after)]
    for number, of_site in enumerate(talks[:3]):
        talk = of_site[number]
        asked = talk[: min(4 * number + 3, len(talk) - 1)]  # the user's second, fourth and sixth turn, or the last
        print(f"\nuser: {asked[-1]['content']}\n  said there: {talk[len(asked)]['content']}")
        inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        for name, model in zip(("before", "after"), models, strict=True):
            with torch.no_grad():
                out = model.generate(**inputs, max_new_tokens=60, do_sample=False)
            answer = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            print(f"  {name}: {' '.join(answer.split())}")


if __name__ == "__main__":
    main()
