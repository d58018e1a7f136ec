"""WHAT must be remembered: sequences, their right answers, and what counts as right."""

from functools import cache
from typing import Any

from srn_jax.checks import OWN
from srn_jax.config import DataFolder, SweepConfig
from srn_jax.errors import UserError
from srn_jax.own_files import load_class, own_mistakes, path_of
from srn_jax.tasks.adding import Adding
from srn_jax.tasks.digit_sum import DigitSum, FromFiles
from srn_jax.tasks.recall import Recall
from srn_jax.tasks.task import Task

__all__ = ["Adding", "DigitSum", "FromFiles", "Recall", "Task", "task_of"]

BY_NAME: dict[str, Any] = {"digit-sum": DigitSum, "adding": Adding, "recall": Recall}


def task_of(config: SweepConfig) -> Task:
    """The task of a sweep: that of its data files, one of `config.TASKS`, or FILE.py:NAME.

    Raises:
        UserError: for a class of the user's that is no task.
    """
    if config.data is not None:
        return new_task(FromFiles, config.data)
    name = config.experiment.task
    if not OWN.fullmatch(name):
        return new_task(BY_NAME[name])
    found = load_class(name)
    try:
        with own_mistakes(path_of(name)):
            task = new_task(found)
    except TypeError as error:  # of the call itself
        raise UserError(f"{name}: a task is made without arguments ({error})") from None
    missing = [a for a in ("inputs", "outputs", "draw") if not hasattr(task, a)]
    if missing or not isinstance(task, Task):
        lack = f"no {missing[0]}" if missing else "not a subclass of srn_jax.Task"
        raise UserError(f"{name}: {lack} (a task has inputs, outputs and draw)")
    return task


@cache
def new_task(kind: Any, *arguments: DataFolder) -> Task:
    """A task, the same one for the same arguments: programs are compiled for a task."""
    return kind(*arguments)
