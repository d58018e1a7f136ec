"""What is recorded at every step: functions of a `Step` that give scalars by name.

A probe of your own is such a function, or a class whose instances are; its names become histories.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.errors import UserError

LOSS = "train_loss"
NAME = re.compile(r"[\w.-]+")  # of what is recorded: it becomes part of a figure's file
TAKEN = "loss", "epoch_loss", "dev_loss", "dev_accuracy"  # by other histories and their figures


class Step(NamedTuple):
    """One training step, before its updates are applied."""

    loss: jax.Array  # scalar
    gradient: Any  # of the loss, before clipping; arrays by module and name
    updates: Any  # what is added to the parameters
    parameters: Any


def norms(name: str, tree: Any) -> dict[str, jax.Array]:
    """The L2 norm of each tensor of the recurrent layers."""
    norms = {}
    for module in sorted(module for module in tree if module.startswith("cell")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree[module]):
            where = [] if module == "cell" else [module]
            names = [str(key.key) for key in path]
            norms[".".join([name, *where, *names])] = jnp.linalg.norm(leaf)
    return norms


BY_NAME: dict[str, Callable[[Step], dict[str, jax.Array]]] = {
    "gradient-norm": lambda step: norms("gradient_norm", step.gradient),
    "update-norm": lambda step: norms("update_norm", step.updates),
    "parameter-norm": lambda step: norms("parameter_norm", step.parameters),
}


def record(probes: Sequence[tuple[str, Any]], step: Step) -> dict[str, jax.Array]:
    """The loss, and what probes see; raises `UserError` for what is no record."""
    found: dict[str, jax.Array] = {LOSS: step.loss}
    for name, probe in probes:
        new = (probe() if isinstance(probe, type) else probe)(step)
        for key, value in new.items() if isinstance(new, dict) else [("", new)]:
            if jnp.shape(value) or key in (*TAKEN, *found) or not NAME.fullmatch(str(key)):
                raise UserError(
                    f"{name}: a probe gives a dictionary of scalars by name, of letters, digits "
                    f"and ._-, none of {', '.join((*TAKEN, *found))}, got {key!r}: {value}"
                )
            found[key] = jnp.asarray(value, jnp.float32)
    return found


def recorded_names(probes: Sequence[tuple[str, Any]], parameters: Any) -> list[str]:
    """The names of what is recorded."""
    step = Step(jnp.float32(0), parameters, parameters, parameters)
    return list(jax.eval_shape(lambda: record(probes, step)))
