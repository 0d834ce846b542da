"""`fedgalore agent --check JOB`: whether a job's document fits this site, its data and its machine. Joins nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from client_agent import protection
from client_agent.cache import hash_of_files
from client_agent.data import LocalData, LocalSplit
from client_agent.errors import CannotTrain
from client_agent.machine import Memory, memory
from client_agent.policy import of_evaluation, of_job, of_task
from client_agent.settings import AgentSettings
from fedgalore.model.folder import files as model_files
from fedgalore.model.folder import has_safetensors
from fedgalore.process.content_folder import ref_of_file
from fedgalore.process.disk import free_bytes
from fedgalore.process.memory import anonymous_bytes
from fedgalore.sizing import SiteMemory, SiteNeeds, site_needs, tokens_in_a_pass
from fedgalore.spec.amounts import size, table
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan


def check_job(settings: AgentSettings, data: Mapping[str, LocalData], spec: JobSpec) -> tuple[str, list[str]]:
    """A table of what the job needs here and what there is; what is wrong, in sentences.

    Raises:
        CannotTrain: the model's configuration is nowhere on this machine, or is none that the job can train.
    """
    from fedgalore.model.inputs import TaskError
    from fedgalore.model.skeleton import base_bytes, plan_of_folder

    folder = model_folder(spec.model.source, settings)
    try:
        plan = plan_of_folder(spec, folder)
        lacked = 0 if _is_below(folder, settings.models) else base_bytes(folder, plan)
    except TaskError as error:
        raise CannotTrain(str(error)) from error
    has, free = memory(settings), free_bytes(settings.work_dir)
    words, longest, problems = _of_data(spec, data)
    base_model = hash_of_model(folder)
    problems += _refused(settings, spec, plan, data, base_model)
    needs = site_needs(spec, plan, lacked, longest, on_gpu=has.on_gpu)
    if has.size_bytes is not None:
        problems.append(SiteMemory.of(spec, plan).problem(spec, longest, has.size_bytes, on_gpu=has.on_gpu))
    if free is not None:
        problems.append(no_room(settings.work_dir, needs, free))
    return "\n".join(
        (
            *_head(spec, plan, longest),
            words,
            f"model's hash: {base_model or 'seen where its weights are, too'}",
            "",
            _table(needs, has, free),
        )
    ), [each for each in problems if each]


def model_folder(source: str, settings: AgentSettings) -> Path:
    """The folder of a job's model on this machine: the one that the job names, or one of `models` of that name.

    Raises:
        CannotTrain: there is none.
    """
    name = Path(source).name
    near = [place for models in settings.models for place in (models, models / name) if place.name == name]
    for folder in (Path(source).expanduser(), *near):
        if (folder / "config.json").is_file():
            return folder
    raise CannotTrain(
        f"model.source: neither {source} nor a folder {name} in models has a config.json on this machine; put the "
        "model's config.json into a folder of that name, and list it in models"
    )


def hash_of_model(folder: Path) -> str | None:
    """As `policy.base_models` lists it; None where the folder lacks the weights."""
    if not has_safetensors(folder):
        return None
    return hash_of_files({path.name: ref_of_file(path) for path in model_files(folder)})


def no_room(work_dir: Path, needs: SiteNeeds, free: int) -> str | None:
    """What is wrong with a disk of so much room; None where the job fits."""
    if (needed := sum(needs.disk.values())) <= free:
        return None
    return (
        f"work_dir: {work_dir} has {size(free)} free, and the job needs up to {size(needed)}; make room there, or give "
        "the agent a work_dir on another disk"
    )


def _refused(
    settings: AgentSettings, spec: JobSpec, plan: TrainingPlan, data: Mapping[str, LocalData], base_model: str | None
) -> list[str]:
    """What this site's policy forbids of the job, and what its protection cannot cover."""
    local, policy = data.get(spec.data.name), settings.policy
    has = local.holdings(spec) if local else None
    document = (*of_job(policy, spec, has), *of_evaluation(policy, spec, has)) if has else ()
    covered = (*protection.of_job(settings.protection, spec), *protection.of_plan(settings.protection, plan))
    found = dict.fromkeys((*document, *of_task(policy, spec, plan, base_model, None), *covered))
    return [f"{refusal.code}: {refusal.words}" for refusal in found]


def _is_below(folder: Path, places: tuple[Path, ...]) -> bool:
    return any(folder.resolve().is_relative_to(place.resolve()) for place in places)


def _of_data(spec: JobSpec, data: Mapping[str, LocalData]) -> tuple[str, int, list[str | None]]:
    from fedgalore.preflight import Split, preflight

    if (local := data.get(spec.data.name)) is None:
        return "data: none", 0, [f"data: this site has no data set {spec.data.name}; add it to the agent's config"]

    def split(part: LocalSplit) -> Split:
        return Split(str(part.path), part.examples)

    found = preflight(spec, split(local.train), split(local.test) if local.test else None)
    words = f"data: {found.examples} examples, and {found.test_examples} to evaluate on"
    return words, found.longest, [found.problem]


def _head(spec: JobSpec, plan: TrainingPlan, longest: int) -> Iterator[str]:
    yield f"job {spec.name}: {spec.method.kind} on {spec.model.source}"
    yield f"{plan.shape.parameters:,} parameters; up to {tokens_in_a_pass(spec, longest):,} tokens in a pass"


def _table(needs: SiteNeeds, has: Memory, free: int | None) -> str:
    def told(size_bytes: int | None) -> str:
        return "?" if size_bytes is None else size(size_bytes)

    rows: list[tuple[str, str, str]] = []
    memory_of = "memory of the GPU" if has.on_gpu else "memory"
    shown = [(memory_of, needs.memory, has.size_bytes), ("disk of work_dir", needs.disk, free)]
    if has.on_gpu:
        shown.insert(1, ("memory of the host", needs.host, anonymous_bytes()))
    for name, parts, there in shown:
        rows.append((name, size(sum(parts.values())), told(there)))
        rows += [(f"  {part}", size(size_bytes), "") for part, size_bytes in parts.items()]
    rows += [
        ("download before the first round", size(needs.download), ""),
        ("download in a round", size(needs.down), ""),
        ("upload in a round", size(needs.up), ""),
    ]
    return table(("this machine, for the job", "needs", "has"), rows)
