"""`fedgalore demo`: a whole federation on this machine, from nothing to a model that `from_pretrained` loads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.exits import Exit

if TYPE_CHECKING:
    from fedgalore.client import Client
    from fedgalore_cli.demo.report import Run
    from fedgalore_cli.demo.sites import DemoSite

MARK = ".fedgalore-demo"  # a file in every folder that a demo wrote
RESULT = "result.json"


def demo(
    to: Annotated[Path, typer.Option("--to", help="Folder for model, plot, tables and logs")] = Path("demo-run"),
    clients: Annotated[int, typer.Option("--clients", min=2, max=16, help="Sites, each with its own agent")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds to train")] = 16,
    rank: Annotated[int, typer.Option("--rank", min=1, max=384, help="Columns of each gradient subspace")] = 8,
    alpha: Annotated[float, typer.Option("--alpha", min=0.01, help="Dirichlet skew: 0.1 is severe, 100 is none")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split and of the job")] = 0,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="KIND", help="A method to show beside FedGaLore, such as fedit; repeatable"),
    ] = None,
) -> None:
    """Fine-tune a real text encoder across unlike sites, and watch it live. Takes some minutes on two cores.

    Starts Redis, a coordinator with its aggregator and an agent for each site as separate processes on loopback
    sockets, posts a job over REST, follows it, and downloads the model. With --compare it does the same for further
    methods, one after the other on the same sites, and shows all in one table and one plot.
    """
    from rich.text import Text

    from fedgalore.client import Client
    from fedgalore_cli.demo import report
    from fedgalore_cli.demo.job import SHOWN, agent_documents, job_document, rivals
    from fedgalore_cli.demo.sites import demo_sites
    from fedgalore_cli.local import LaunchError, LocalFederation
    from fedgalore_cli.show.console import console

    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))  # as Ctrl-C does: no process is left behind
    out = console()
    try:
        kinds = [SHOWN, *rivals(compare or [])]
        sites = demo_sites(clients, alpha, seed)
        documents = [job_document(clients, rounds, rank, seed, kind) for kind in kinds]
    except ValueError as error:
        fail(str(error))
    _make_room(to)
    root = to / "federation"
    told = f": {clients} sites, {rounds} rounds, rank {rank}; logs under {root / 'logs'}"
    out.print(Text.assemble(("FedGaLore demo", "bold"), told))
    out.print(f"FedGaLore: {report.states(documents[0])}")
    other_s: dict[str, float] = {}
    cores = len(os.sched_getaffinity(0))  # the sites wait while the aggregator works, and its bits hang on no number
    try:
        with LocalFederation(root, agent_documents(sites, root / "data"), threads=cores) as federation:
            other_s["starting the processes"] = time.monotonic() - started
            out.print(f"dashboard and API while it runs: {federation.rest_url}/  {federation.rest_url}/docs")
            with Client(federation.rest_url) as client:
                runs = [_run(client, documents[0], to / "model")]
                runs += [_run(client, document) for document in documents[1:]]
    except LaunchError as error:
        fail(str(error))
    for heavy in ("blobs", "agents", "redis"):
        shutil.rmtree(root / heavy, ignore_errors=True)
    other_s["in all"] = time.monotonic() - started
    report.plot(runs, sites).savefig(to / "accuracy.png", dpi=130)
    (to / RESULT).write_text(json.dumps({"runs": [asdict(run) for run in runs], "seconds": other_s}, indent=1))
    out.print(report.tables(runs, sites, other_s))
    _try_out(to / "model", sites, out)
    made = (("model", to / "model"), ("plot", to / "accuracy.png"), ("numbers", to / RESULT))
    out.print()
    out.print(Text("  ").join(Text.assemble(f"{what}: ", (str(path), "bold")) for what, path in made))


def _run(client: Client, document: dict[str, Any], model: Path | None = None) -> Run:
    """Posts a job, follows it to its end, and downloads its model if there is a folder for it."""
    from fedgalore_cli.demo.report import Run
    from fedgalore_cli.jobs.watching import follow

    posted = time.monotonic()
    job = client.submit(document).id
    follow(client, job)
    rounds = client.rounds(job)
    in_rounds = sum(seconds for each in rounds for seconds in each.phase_s.values())
    preparing_s = time.monotonic() - posted - in_rounds
    if model is not None:
        client.model(job, model)
    return Run(document, [each.document() for each in rounds], preparing_s)


def _make_room(to: Path) -> None:
    """Removes what an earlier demo left, and nothing else."""
    if to.exists() and any(to.iterdir()):
        if not (to / MARK).is_file():
            fail(f"--to: {to} holds files that no demo wrote; name another folder")
        for folder in ("federation", "model"):
            shutil.rmtree(to / folder, ignore_errors=True)
    to.mkdir(parents=True, exist_ok=True)
    (to / MARK).touch()


def _try_out(model: Path, sites: list[DemoSite], out: Any) -> None:
    """Loads the folder as any user would, and classifies a held-out text of each site."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from fedgalore_cli.demo.sites import LABELS

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(model).eval()
    out.print("\nThe downloaded model on held-out texts:")
    for number, site in enumerate(sites):
        row = [row for row in site.test if row["label"] == str(number % 2)][-1]
        with torch.no_grad():
            scores = classifier(**tokenizer(row["text"], return_tensors="pt", truncation=True)).logits.softmax(-1)[0]
        name = classifier.config.id2label[int(scores.argmax())]
        truth = LABELS[int(row["label"])]
        out.print(f"  {name} ({scores.max():.0%}; people: {truth})  {row['text'][:70]}")
