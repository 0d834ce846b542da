"""What people should know of a job's model and cannot read in the job, in words."""

from __future__ import annotations

from fedgalore.model.generation import way_of_writing
from fedgalore.model.plan import idle_names
from fedgalore.model.task import TaskModel
from fedgalore.spec.rates import rates_of


def remarks(task: TaskModel) -> tuple[str, ...]:
    """What rates hold where the job names none, and what of its settings the model takes otherwise than they say."""
    said = (
        _rates(task),
        _micro_batches(task),
        task.inputs.shortening(task.spec.data.max_length),
        idle_names(task.plan, task.spec),
        way_of_writing(task),
    )
    return tuple(words for words in said if words is not None)


def _rates(task: TaskModel) -> str | None:
    if task.spec.local.learning_rate is not None:
        return None
    first, last = (rates_of(task.spec, task.plan, behind, False) for behind in (0, task.spec.rounds.count - 1))
    head = f", of the head {first.head:.2g} to {last.head:.2g}" if task.plan.dense else ""
    return f"local.learning_rate is not named: it goes from {first.targets:.2g} to {last.targets:.2g}{head}"


def _micro_batches(task: TaskModel) -> str | None:
    local, buffers = task.spec.local, task.plan.buffers
    if not buffers or local.micro_batch_size in (None, local.batch_size):
        return None
    return (
        f"local.micro_batch_size: each pass changes {buffers[0].name} of this model, and what goes by a batch's "
        "statistics takes those of a micro-batch, so that training differs from that of whole batches"
    )
