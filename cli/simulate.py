"""`fedgalore simulate` and `fedgalore partition`: a federation on one machine, and shards for trying out a real one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cli.client import fail

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job document, YAML or JSON", show_default=False)]
Clients = Annotated[int, typer.Option("--clients", min=1, help="How many clients to split the data over")]
Train = Annotated[Path | None, typer.Option("--train", help="Training examples: JSONL, CSV, TSV or Parquet")]
Test = Annotated[Path | None, typer.Option("--test", help="Held-out examples; every client evaluates on all of them")]
Text = Annotated[
    list[str] | None, typer.Option("--text", help="Column with the text; twice for pairs  [default: text]")
]
Label = Annotated[str, typer.Option("--label", help="Column with the class")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="Column with the prompt (language models)")]
Completion = Annotated[str | None, typer.Option("--completion", help="Column with the answer (language models)")]
Alpha = Annotated[float, typer.Option("--alpha", min=0.0, help="Dirichlet label skew: 0.1 is severe, 100 is none")]
Seed = Annotated[int, typer.Option("--split-seed", min=0, help="Seed of the split; the job's own seed is apart")]


def simulate(
    job: JobFile,
    agents: Annotated[
        list[Path] | None, typer.Option("--agent", help="Config of an agent whose data to use; once for each client")
    ] = None,
    clients: Clients = 4,
    train: Train = None,
    test: Test = None,
    text: Text = None,
    label: Label = "label",
    prompt: Prompt = None,
    completion: Completion = None,
    alpha: Alpha = 0.1,
    split_seed: Seed = 0,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for the fine-tuned model")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="torch's CPU threads")] = None,
) -> None:
    """Run a job in this one process: no coordinator, no agents, the same mathematics.

    Data comes either from agents' own configs (--agent, once for each), or from one data set that is split
    (--train, --test, --clients, --alpha). With the agents' data, seed and machine of a distributed run the final
    weights are the same, bit for bit.
    """
    from fedgalore import job_spec
    from fedgalore.data import DataError

    try:
        spec = job_spec.load(job)
        sites = _sites_of_agents(agents, spec.data.name) if agents else None
        if sites is None:
            columns = _columns(text, label, prompt, completion)
            sites = _split_sites(train, test, columns, clients, alpha, split_seed)
    except (job_spec.SpecError, DataError, ValueError) as error:
        fail(str(error))
    _run(spec, sites, to, threads)


def _run(spec: Any, sites: Sequence[Any], to: Path | None, threads: int | None) -> None:
    import torch
    from rich.console import Console

    from fedgalore.simulation import RoundRecord
    from fedgalore.simulation import simulate as run
    from fedgalore.tasks import TaskError
    from fedgalore.training import TrainingError

    if threads is not None:
        torch.set_num_threads(threads)
    console = Console()

    def show(record: RoundRecord) -> None:
        parts = [f"version {record.model_version:>3}"]
        for name, metrics in record.evaluation.items():
            parts.append(f"{name} {metrics['accuracy']:.1%}")
        if record.training:
            losses = [metrics["train_loss"] for metrics in record.training.values()]
            parts.append(f"train loss {sum(losses) / len(losses):.3f}")
        console.print("  ".join(parts))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        result = run(spec, Path(spec.model.source).expanduser(), sites, device, show)
    except (TaskError, TrainingError, ValueError) as error:
        fail(str(error))
    if to is not None:
        result.task.save(to)
        console.print(f"model: {to}")


def partition(
    train: Annotated[Path, typer.Option("--train", help="Training examples: JSONL, CSV, TSV or Parquet")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the shards; must not exist yet")],
    dataset: Annotated[str, typer.Option("--name", help="Data set name that jobs will use")],
    test: Test = None,
    clients: Clients = 4,
    text: Text = None,
    label: Label = "label",
    prompt: Prompt = None,
    completion: Completion = None,
    alpha: Alpha = 0.1,
    split_seed: Seed = 0,
    coordinator: Annotated[str, typer.Option("--coordinator", help="Written into the configs")] = "127.0.0.1:50051",
) -> None:
    """Split one data set into unlike shards, with an agent config for each: a federation to try things out on."""
    from fedgalore.data import DataError

    try:
        columns = _columns(text, label, prompt, completion)
        sites = _split_sites(train, test, columns, clients, alpha, split_seed)
        to.mkdir(parents=True)
    except FileExistsError:
        fail(f"--to: {to} exists; name a new folder")
    except (DataError, ValueError, OSError) as error:
        fail(str(error))
    for site in sites:
        folder = to / site.name
        folder.mkdir()
        splits = {"train": site.train, "test": site.test}
        names = {}
        for split, examples in splits.items():
            if examples:
                names[split] = f"{split}.jsonl"
                lines = [json.dumps({k: v for k, v in e.items() if k != "row" and v is not None}) for e in examples]
                (folder / names[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        keys = {key: key for key in ("label", "prompt", "completion") if key in site.train[0]}
        if "text" in site.train[0]:
            pair = site.train[0]["text_pair"] is not None
            keys["text"] = ["text", "text_pair"] if pair else "text"  # type: ignore[assignment]
        document = {
            "name": site.name,
            "coordinator": coordinator,
            "work_dir": "work",
            "data": {dataset: {**names, **keys}},
        }
        (folder / "agent.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        print(f"{folder / 'agent.yaml'}: {len(site.train)} training examples")


def _columns(text: list[str] | None, label: str, prompt: str | None, completion: str | None) -> dict[str, Any]:
    if prompt is not None or completion is not None:
        return {"prompt": prompt, "completion": completion}
    return {"text": tuple(text or ["text"]), "label": label}


def _sites_of_agents(configs: list[Path], dataset: str) -> list[Any]:
    from client_agent.data import read_all
    from client_agent.settings import SettingsError, load
    from fedgalore.simulation import Site

    sites = []
    for config in configs:
        try:
            settings = load(config)
        except SettingsError as error:
            raise ValueError(f"{config}: {error}") from error
        if dataset not in settings.data:
            raise ValueError(f"{config}: data: has no {dataset!r}, which the job's data.name asks for")
        local = read_all({dataset: settings.data[dataset]})[dataset]
        sites.append(Site(settings.name, local.train.examples, local.test.examples if local.test else ()))
    return sites


def _split_sites(
    train: Path | None, test: Path | None, columns: dict[str, Any], clients: int, alpha: float, seed: int
) -> list[Any]:
    from fedgalore.data import SplitFile, read_examples
    from fedgalore.partition import dirichlet
    from fedgalore.simulation import Site

    if train is None:
        raise ValueError("--train: name a file with training examples, or name agents' configs by --agent")
    examples = read_examples(SplitFile(train, **columns))
    held_out = read_examples(SplitFile(test, **columns)) if test else []
    # texts without classes are all of one kind: their skew is one of quantity
    labels = [example.get("label", 0) for example in examples]
    shards = dirichlet(labels, clients, alpha, seed)
    width = len(str(clients))
    return [
        Site(f"client-{number:0{width}}", [examples[index] for index in shard], held_out)
        for number, shard in enumerate(shards, start=1)
    ]
