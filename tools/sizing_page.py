"""The numbers of docs/SIZING.md, from `fedgalore.sizing` and `fedgalore size`: `python -m tools.sizing_page`.

Models are Llamas of 1, 8 and 70 billion parameters, by their configurations alone. `--check` only compares the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fedgalore import sizing
from fedgalore.spec.amounts import size
from fedgalore_cli.main import app
from tools.blocks import keep

PAGE = Path(__file__).resolve().parent.parent / "docs" / "SIZING.md"
COMMAND = "python -m tools.sizing_page"
WIDTHS = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
COMMON = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256, "dtype": "bfloat16"}
SETTINGS = (
    "data.max_length=512",
    "local.batch_size=1",
    "local.activation_checkpointing=true",
)
WEIGHTS = {
    "float32": (),
    "bfloat16": ("--set", "local.weights=bfloat16", "--set", "local.precision=bfloat16"),
}
SITES = (4, 100)
COEFFICIENTS = {
    "LIBRARIES": "host, on a CPU: Python, torch, transformers",
    "CUDA_HOST": "host, on a GPU",
    "CUDA_DEVICE": "GPU: CUDA's context",
    "SCRATCH": "times the largest trained matrix in float32: its gradient, its step, a copy",
    "KEPT": "times the inputs and outputs of the linear layers, for each token",
    "BLOCK": "the same of one block, with activation checkpointing",
    "FORWARD": "the same of one block, in an evaluation",
    "LOGITS": "times a token's logits in float32",
    "AGGREGATOR": "coordinator and aggregator without a model",
    "LOADED_BACK": "bytes a parameter while the aggregator loads a final model back",
    "AGGREGATION_S": "seconds a trained parameter",
    "CLIENT_S": "seconds a trained parameter and client",
}


def blocks() -> dict[str, str]:
    """The page's blocks by name."""
    with tempfile.TemporaryDirectory() as name:
        folders = {model: folder_of(Path(name) / model, model) for model in WIDTHS}
        return {
            "coefficients": "\n".join(_coefficients()),
            "sites": "\n".join(_sites(folders)),
            "coordinators": "\n".join(_coordinators(folders)),
            "example": f"```\n{run(folders['8B'], 4, *WEIGHTS['bfloat16'])}```",
        }


def folder_of(folder: Path, model: str) -> Path:
    """Makes the folder of a model of `WIDTHS`, by its configuration alone."""
    folder.mkdir()
    config = COMMON | WIDTHS[model] | {"tie_word_embeddings": model == "1B"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def run(folder: Path, clients: int, *more: str) -> str:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    result = CliRunner().invoke(app, ["size", str(folder), "--clients", str(clients), *settings, *more])
    if result.exit_code:
        raise RuntimeError(result.output)
    return result.output


def numbers_of(folder: Path, clients: int, *more: str) -> dict[str, Any]:
    """What `fedgalore size` says, as its JSON."""
    numbers: dict[str, Any] = json.loads(run(folder, clients, "--output", "json", *more))
    return numbers


def _coefficients() -> Iterator[str]:
    yield "| coefficient | value | of what |"
    yield "|---|---|---|"
    for name, what in COEFFICIENTS.items():
        value = getattr(sizing, name)
        yield f"| `{name}` | {size(value) if value >= 1e6 else f'{value:g}'} | {what} |"


def _sites(folders: dict[str, Path]) -> Iterator[str]:
    yield "| model | weights | memory on a CPU | of a GPU | and of its host | disk | down at first | down, up a round |"
    yield "|---|---|---|---|---|---|---|---|"
    for model, folder in folders.items():
        for weights, more in WEIGHTS.items():
            found = numbers_of(folder, 4, *more)
            cpu, gpu = found["site"], found["gpu"]
            parts = [cpu["host"], gpu["device"], gpu["host"], cpu["disk"]]
            yield _row(model, weights, *map(_sum, parts), size(cpu["download"]), _both(cpu))


def _coordinators(folders: dict[str, Path]) -> Iterator[str]:
    yield "| model | sites | memory | disk | aggregation on two cores | down, up a round, all sites |"
    yield "|---|---|---|---|---|---|"
    for model, folder in folders.items():
        for clients in SITES:
            found = numbers_of(folder, clients)["coordinator"]
            cells = [_sum(found["memory"]), _sum(found["disk"]), f"{found['seconds']:,.0f} s"]
            yield _row(model, str(clients), *cells, _both(found))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _both(needs: dict[str, Any]) -> str:
    return f"{size(needs['down'])}, {size(needs['up'])}"


def _sum(parts: dict[str, int]) -> str:
    return size(sum(parts.values()))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the page is stale")
    return keep(PAGE, blocks(), COMMAND, check=parser.parse_args(arguments).check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
