"""WHAT must be remembered: sequences, their right answers, and what counts as right."""

from functools import cache
from typing import Any

from srn_jax.config import TASKS, SweepConfig
from srn_jax.errors import UserError
from srn_jax.own_files import describe, own_mistakes, resolve
from srn_jax.tasks.edition_2026 import DigitSum2026, FirstTokens2026
from srn_jax.tasks.parity import Parity, ParityEverywhere, VariableParity
from srn_jax.tasks.recall import AssociativeRecall, Copying, SelectiveCopying, VariableCopying
from srn_jax.tasks.sums import Adding, DigitSum, FromFiles
from srn_jax.tasks.task import Examples, Task, Tokens, Vectors

__all__ = ["Adding", "DigitSum", "Examples", "FromFiles", "Task", "Tokens", "Vectors", "task_of"]

OURS = (
    *(DigitSum, Adding, Copying, VariableCopying, SelectiveCopying, AssociativeRecall),
    *(Parity, ParityEverywhere, VariableParity, DigitSum2026, FirstTokens2026),
)
BY_NAME: dict[str, Any] = dict(zip(TASKS, OURS, strict=True))


def task_of(config: SweepConfig) -> Task:
    """The task of a sweep: that of its data files, one of `BY_NAME`, or the user's own.

    Raises `UserError` for an object of the user's that is no task.
    """
    if config.data is not None:
        return new_task(FromFiles, config.data)
    value = config.experiment.task
    found, name = resolve(value, BY_NAME), describe(value)
    if isinstance(found, type):
        try:
            with own_mistakes(value):
                found = new_task(found)
        except TypeError as error:  # of the call itself
            raise UserError(f"{name}: a task is made without arguments ({error})") from None
    if not isinstance(found, Task):
        raise UserError(f"{name}: not a subclass of srn_jax.Task, expected one or an instance")
    missing = [a for a in ("inputs", "outputs", "draw") if not hasattr(found, a)]
    if missing:
        raise UserError(f"{name}: no {missing[0]} (a task has inputs, outputs and draw)")
    return found


@cache
def new_task(kind: Any, *arguments: Any) -> Task:
    """A task, the same one for the same arguments: programs are compiled for a task."""
    return kind(*arguments)
