"""How much of a job's result a LoRA adapter keeps: `python benchmarks/adapter.py --kinds fedgalore fedit`.

The script trains an encoder on the demo's texts and sites in the simulation, and stores the result as a coordinator
does. It unpacks the downloads of `/model` and `/adapter`, and loads both as a user would (the adapter on top of the
base model, by PEFT). It prints their sizes, their mean accuracy over the sites' held-out texts, and the share of the
change's energy that the adapter keeps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification

from coordinator.aggregator.compute import prepare
from coordinator.models.adapter_archive import AdapterArchive
from coordinator.models.archive import Archive
from coordinator.models.model_archive import ModelArchive
from coordinator.state import job as jobs
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.chain import Chain
from fedgalore.client.archive import unpack
from fedgalore.data.examples import Example
from fedgalore.evaluation import evaluate
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.face import Inputs
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import JobSpec, parse
from fedgalore.spec.layout import weights_tensors
from fedgalore_cli.demo.job import LEARNING_RATES, job_document
from fedgalore_cli.demo.sites import demo_sites
from protos.codec import SafetensorsWriter


def examples(rows: Sequence[Mapping[str, str]]) -> list[Example]:
    return [{"text": row["text"], "text_pair": None, "label": int(row["label"]), "row": 0} for row in rows]


def trained(spec: JobSpec, sites: Sequence[Site], blobs: BlobStore, folder: Path) -> tuple[Job, ModelVersion]:
    """A job whose rounds have run, with its model in `blobs`."""
    prepared = prepare(spec, blobs)
    result = simulate(spec, Path(spec.model.source), sites)
    tensors = weights_tensors(spec, result.task.plan, spec.rounds.count)
    with SafetensorsWriter(folder / "weights", tensors, {}) as writer:
        for name, tensor in result.weights.items():
            writer.write(name, tensor.numpy())
    weights = blobs.put_file(folder / "weights", move=True)
    version = ModelVersion(spec.rounds.count, Chain.start(weights), weights)
    return replace(jobs.create("benchmark", spec, time.time()), prepared=prepared, model=version), version


def download(archive: Archive, to: Path) -> float:
    """Makes an archive and unpacks it. Returns the seconds that this took."""
    started = time.perf_counter()
    unpack(iter(archive), to)
    return time.perf_counter() - started


def accuracy(spec: JobSpec, model: Any, inputs: Inputs, sites: Sequence[Site]) -> float:
    task = TaskModel(spec, model, inputs, torch.device("cpu"))
    return sum(evaluate(task, site.test).metrics["accuracy"] for site in sites) / len(sites)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=tuple(LEARNING_RATES), default=["fedgalore"], help="methods")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32], help="ranks of the adapters")
    parser.add_argument("--rank", type=int, default=8, help="rank that the method trains at")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--model", help="folder of a base model to take instead of the demo's encoder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute's old name

    sites = [Site(site.name, examples(site.train), examples(site.test)) for site in demo_sites(4, 0.1, options.seed)]
    for kind in options.kinds:
        document = job_document(len(sites), options.rounds, options.rank, options.seed, kind)
        document["model"]["source"] = options.model or document["model"]["source"]
        document["evaluation"] = {"every": options.rounds}
        spec = parse(document)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            blobs = DirectoryBlobStore(folder / "blobs")
            job, version = trained(spec, sites, blobs, folder)
            whole = ModelArchive(job, version, None, blobs)
            download(whole, folder / "full")
            inputs = TaskModel.load(spec, folder / "full").inputs
            full = AutoModelForSequenceClassification.from_pretrained(folder / "full")
            trained_at = "" if kind == "fedavg" else f" at rank {options.rank}"
            print(f"{kind}{trained_at}, {options.rounds} rounds, {len(sites)} sites, seed {options.seed}")
            print(f"  full model  {whole.size_bytes:>12,} bytes  {accuracy(spec, full, inputs, sites):6.1%}")
            for rank in options.ranks:
                archive = AdapterArchive(job, version, rank, None, blobs)
                adapter = folder / f"rank-{rank}"
                seconds = download(archive, adapter)
                base = AutoModelForSequenceClassification.from_pretrained(
                    spec.model.source, config=AutoConfig.from_pretrained(adapter), ignore_mismatched_sizes=True
                )
                model = PeftModel.from_pretrained(base, adapter).merge_and_unload()
                kept = json.loads((adapter / "fedgalore.json").read_text())["energy_kept"]
                print(
                    f"  rank {rank:<5}  {archive.size_bytes:>12,} bytes  {accuracy(spec, model, inputs, sites):6.1%}"
                    f"  keeps {kept:.1%} of the change's energy, made in {seconds:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
