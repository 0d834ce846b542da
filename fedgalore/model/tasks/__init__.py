"""What models are trained for: one file a task, found by `fedgalore.model.tasks.registry.task_of`."""
