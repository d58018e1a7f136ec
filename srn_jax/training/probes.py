"""What is recorded at every step: functions of a step, each a dictionary of scalars by name.

A probe of your own is a class whose instances are called with a `Step`; its names become histories,
are kept in checkpoints, written to `histories.npz` and drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.checks import OWN
from srn_jax.own_files import load_class

LOSS = "train_loss"


class Step(NamedTuple):
    """One training step, before its updates are applied."""

    loss: jax.Array  # scalar
    gradient: Any  # of the loss, before clipping; arrays by module and name
    updates: Any  # what is added to the parameters
    parameters: Any


Probe = Callable[[Step], dict[str, jax.Array]]


def loss(step: Step) -> dict[str, jax.Array]:
    """The loss of the batch."""
    return {LOSS: step.loss}


def norms(name: str, tree: Any) -> dict[str, jax.Array]:
    """The L2 norm of each tensor of the recurrent layer."""
    leaves = jax.tree_util.tree_leaves_with_path(tree["cell"])
    return {
        ".".join([name, *(str(getattr(key, "key", key)) for key in path)]): jnp.linalg.norm(leaf)
        for path, leaf in leaves
    }


BY_NAME: dict[str, Probe] = {
    "gradient-norm": lambda step: norms("gradient_norm", step.gradient),
    "update-norm": lambda step: norms("update_norm", step.updates),
    "parameter-norm": lambda step: norms("parameter_norm", step.parameters),
}


def record(names: tuple[str, ...], step: Step) -> dict[str, jax.Array]:
    """The loss, and what the named probes see."""
    found = loss(step)
    for name in names:
        found |= (load_class(name)() if OWN.fullmatch(name) else BY_NAME[name])(step)
    return found
