"""What people should know of a job's model and cannot read in the job, in words."""

from __future__ import annotations

from fedgalore.model.generation import way_of_writing
from fedgalore.model.plan import idle_names
from fedgalore.model.task import TaskModel


def remarks(task: TaskModel) -> tuple[str, ...]:
    """That texts are cut, that a name names nothing, and how answers are written."""
    said = (
        task.inputs.shortening(task.spec.data.max_length),
        idle_names(task.plan, task.spec),
        way_of_writing(task),
    )
    return tuple(words for words in said if words is not None)
