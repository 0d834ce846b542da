"""What one round of one client costs on the wire, and that nothing is lost: `python benchmarks/uplink.py [--rank 8]`.

The script trains MiniLM for a round on the demo's texts, encodes the update as an agent does, and decodes it as the
aggregator does. It prints the update's bytes beside those of the whole trained matrices (federated averaging) and of
float32 LoRA factors of equal rank. It prints the share of the change (its squared norm) that the update carries. At
last it adds what the client sent to what it keeps for its next update, and prints how far the sum is from what the
client changed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from fedgalore.deltas import decoded
from fedgalore.maths.projector import orient
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound, Start
from fedgalore.spec.job import parse
from fedgalore.spec.layout import kept_tensors, update_tensors
from fedgalore.training import local_update
from fedgalore_cli.demo.job import job_document
from fedgalore_cli.demo.sites import demo_sites
from protos.codec import SafetensorsWriter, open_update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)

    document = job_document(clients=4, rounds=1, rank=options.rank, seed=0)
    document["local"]["steps"] = options.steps
    spec = parse(document)
    task = TaskModel.load(spec, Path(spec.model.source))
    site = demo_sites(4, 0.1, 0)[0]
    examples = [{**row, "text_pair": None, "label": int(row["label"]), "row": 0} for row in site.train]
    before = task.weights()
    update = local_update(LocalRound(task, site.name, 1, Start(before)), examples)
    after = task.weights()
    tensors = update_tensors(spec, task.plan, site.name, 1)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update.safetensors"
        with SafetensorsWriter(path, tensors, {"decay": repr(update.decay)}) as writer:
            for name, tensor in update.tensors.items():
                writer.write(name, tensor.numpy())
        sent = path.stat().st_size
        read = open_update(path)
        told = decoded(lambda name: torch.from_numpy(read.tensor(name)), tensors)
        kept = decoded(update.kept.__getitem__, kept_tensors(spec, task.plan, site.name))
        decay = float(read.metadata["decay"])
        worst = whole = left_out = 0.0
        for target in task.plan.targets:
            left, right = (told(f"{target.name}/{part}") for part in ("left", "right"))
            residue = kept(f"{target.name}/residue")
            rebuilt = decay * orient(before[target.name]) + left @ right + residue
            local = orient(after[target.name])
            left_out += float(residue.square().sum())
            whole += float((local - decay * orient(before[target.name])).square().sum())
            worst = max(worst, float((rebuilt - local).norm() / (local - orient(before[target.name])).norm()))

    dense = task.plan.dense_bytes()
    head = sum(spec.size_bytes for name, spec in tensors.items() if "/delta" in name)
    lora = sum(4 * options.rank * (target.d + target.k) for target in task.plan.targets) + head
    print(f"rank {options.rank}, {options.steps} steps, {len(task.plan.targets)} matrices")
    print(f"update      {sent:>12,} bytes, with {1 - left_out / whole:.1%} of the change; later updates carry the rest")
    print(f"dense       {dense:>12,} bytes   update / dense = {sent / dense:.4f}")
    print(f"LoRA, equal {lora:>12,} bytes   update / LoRA  = {sent / lora:.2f}")
    print(f"sent + kept: off by {worst:.2%} of a matrix's change at most, which 8 bits round off")


if __name__ == "__main__":
    main()
