"""What is recorded at every step: functions of a step, each a dictionary of scalars by name.

A probe of your own is a function of a `Step`, or a class whose instances are called with one; its
names become histories, are kept in checkpoints, written to `histories.npz` and drawn.
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


Probe = Callable[[Step], dict[str, jax.Array]]


def norms(name: str, tree: Any) -> dict[str, jax.Array]:
    """The L2 norm of each tensor of the recurrent layers."""
    norms = {}
    for module in sorted(module for module in tree if module.startswith("cell")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree[module]):
            names = [re.sub(r"[^\w.-]", "_", str(getattr(key, "key", key))) for key in path]
            where = [] if module == "cell" else [module]
            norms[".".join([name, *where, *names])] = jnp.linalg.norm(leaf)
    return norms


BY_NAME: dict[str, Probe] = {
    "gradient-norm": lambda step: norms("gradient_norm", step.gradient),
    "update-norm": lambda step: norms("update_norm", step.updates),
    "parameter-norm": lambda step: norms("parameter_norm", step.parameters),
}


def record(probes: Sequence[tuple[str, Any]], step: Step) -> dict[str, jax.Array]:
    """The loss, and what probes see; raises `UserError` for what is no record."""
    found: dict[str, jax.Array] = {LOSS: step.loss}
    for name, probe in probes:
        new = (probe() if isinstance(probe, type) else probe)(step)
        if not isinstance(new, dict):
            raise UserError(f"{name}: a probe gives a dictionary of scalars by name")
        for key, value in new.items():
            taken = *TAKEN, *found
            if key in taken or not NAME.fullmatch(str(key)):
                raise UserError(
                    f"{name}: {key!r} is no name for a record, expected letters, digits and ._- "
                    f"and none of {', '.join(taken)}"
                )
            if jnp.shape(value) != ():
                raise UserError(f"{name}: {key} has shape {jnp.shape(value)}, expected a scalar")
            found[key] = jnp.asarray(value, jnp.float32)
    return found
