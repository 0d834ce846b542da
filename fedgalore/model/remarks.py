"""What people should know of a job's model and cannot read in the job, in words."""

from __future__ import annotations

from dataclasses import astuple

from fedgalore.model.generation import way_of_writing
from fedgalore.model.plan import idle_names, one_for_two
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.rates import rates_of


def remarks(task: TaskModel) -> tuple[str, ...]:
    """What rates hold in which round, and what of its settings the model takes otherwise than they say."""
    said = (
        _rates(task),
        _micro_batches(task),
        _claims(task.spec),
        task.inputs.shortening(task.spec.data.max_length),
        idle_names(task.plan, task.spec),
        one_for_two(task.model, task.spec),
        way_of_writing(task),
    )
    return tuple(words for words in said if words is not None)


def _rates(task: TaskModel) -> str | None:
    """The rates of the first round, of the highest one and of the last, where a reader of the job cannot tell them."""
    local, last = task.spec.local, task.spec.rounds.count - 1
    is_named, warm = local.learning_rate is not None, local.warmup_rounds
    if is_named and local.schedule in (None, "constant") and not warm:
        return None
    told = (0, warm, last) if warm else (0, last)
    rates = [rates_of(task.spec, task.plan, behind, has_last_step=behind > 0) for behind in told]
    ways = [" to ".join(f"{rate:.2g}" for rate in part) for part in zip(*map(astuple, rates), strict=True)]
    head = f", of the head {ways[1]}" if task.plan.dense else ""
    return f"local.learning_rate {'changes' if is_named else 'is not named'}: it goes from {ways[0]}{head}"


def _claims(spec: JobSpec) -> str | None:
    """What of `server` does not protect against a client that claims or sends what it likes."""
    server, few = spec.server, spec.rounds.min_clients
    if spec.privacy is not None:
        return None
    if server.believes_claims:
        return (
            "server.max_weight: null lets a client that claims enough examples outweigh all others, whatever clip_norm "
            "and drop_norm say; name a number, such as 3, set max_examples, or take weighting: equal"
        )
    if server.is_robust and few < 3:
        return (
            f"server.aggregation: {server.aggregation} of fewer than three clients is their plain mean, and "
            f"rounds.min_clients is {few}; raise that to 3 or more"
        )
    if server.one_outweighs(few):
        return (
            f"server.max_weight: {server.max_weight:g} lets a client count for as much as all others together in a "
            f"round of {few} (rounds.min_clients), whatever clip_norm and drop_norm say; lower the one, raise the "
            "other, or take weighting: equal"
        )
    return None


def _micro_batches(task: TaskModel) -> str | None:
    local, buffers = task.spec.local, task.plan.buffers
    if not buffers or local.micro_batch_size in (None, local.batch_size):
        return None
    return (
        f"local.micro_batch_size: each pass changes {buffers[0].name} of this model, and what goes by a batch's "
        "statistics takes those of a micro-batch, so that training differs from that of whole batches"
    )
