"""Values of both charts for models of known sizes, from `fedgalore.sizing`: `python -m tools.chart_presets`.

Memory and disk are what `fedgalore size` says and a quarter more, rounded up. `--check` only compares the files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from tools.sizing_page import WEIGHTS, folder_of, numbers_of

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "charts" / "presets"
COMMAND = "python -m tools.chart_presets"
ROOM = 1.25
GIB = 2**30
SITES = {"1B": 4, "8B": 100}


def presets() -> dict[str, str]:
    """The files' texts by name."""
    made: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for model, sites in SITES.items():
            found = numbers_of(folder_of(Path(name) / model, model), sites, *WEIGHTS["bfloat16"])
            small, word = model.lower(), f"A Llama of {model[:-1]} billion parameters in bfloat16, texts of 512 tokens"
            made[f"coordinator-{small}.yaml"] = _file(f"{word}, {sites} sites a round", _coordinator(found, sites))
            made[f"agent-{small}-cpu.yaml"] = _file(f"{word}, trained on a CPU", _agent(found["site"], 0))
            made[f"agent-{small}-gpu.yaml"] = _file(
                f"{word}, trained on a GPU of {_gpu(found)}", _agent(found["gpu"], 1)
            )
    return made


def _coordinator(found: dict[str, Any], sites: int) -> dict[str, Any]:
    needs = found["coordinator"]
    memory, disk = _room(needs["memory"]), _room(needs["disk"])
    if sites <= 10:
        return {"resources": _resources("1", "4", memory), "blobs": {"size": disk}}
    return {  # several replicas, and an aggregator on a node of its own
        "replicas": 3,
        "resources": _resources("1", "4", "4Gi"),
        "blobs": {"size": disk, "accessMode": "ReadWriteMany"},
        "aggregator": {
            "separate": True,
            "replicas": 2,
            "resources": _resources("4", "16", memory),
            "gpu": {"count": 1},
        },
    }


def _agent(needs: dict[str, Any], gpus: int) -> dict[str, Any]:
    memory = _room(needs["host"])
    values = {"resources": _resources("4", "8", memory), "work": {"size": _room(needs["disk"])}}
    return values | ({"gpu": {"count": gpus}} if gpus else {})


def _resources(least: str, most: str, memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": least, "memory": memory}, "limits": {"cpu": most, "memory": memory}}


def _room(parts: dict[str, int]) -> str:
    return f"{ceil(ROOM * sum(parts.values()) / GIB)}Gi"


def _gpu(found: dict[str, Any]) -> str:
    return f"{ceil(sum(found['gpu']['device'].values()) / 1e9)} GB and more"


def _file(what: str, values: dict[str, Any]) -> str:
    head = f"# {what}; written by `{COMMAND}`.\n"
    return head + yaml.safe_dump(values, sort_keys=False)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is stale")
    check = parser.parse_args(arguments).check
    wanted = presets()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")}
    if there == wanted:
        return 0
    if check:
        print(f"{FOLDER.name}: stale; run `{COMMAND}`", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.yaml"):
        path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
