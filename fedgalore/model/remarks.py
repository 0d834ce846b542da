"""What people should know of a job's model and cannot read in the job, in words."""

from __future__ import annotations

from fedgalore.model.generation import way_of_writing
from fedgalore.model.plan import idle_names
from fedgalore.model.task import TaskModel
from fedgalore.spec.rates import rates_of


def remarks(task: TaskModel) -> tuple[str, ...]:
    """The rates of a job that names none, that texts are cut, that a name names nothing, how answers are written."""
    said = (
        _rates(task),
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
