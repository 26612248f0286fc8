"""The tasks that a network can learn."""

from typing import Literal, get_args

Task = Literal["binary", "multilabel", "multiclass", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)


def check_task(task: str) -> None:
    """Check that there is such a task.

    Raises:
        ValueError: there is none.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(TASKS)}")
