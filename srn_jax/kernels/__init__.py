"""Training steps as GPU kernels: the only place that knows Pallas, and its only door.

`suits` says whether a device can, `applies` whether a program's steps can be a kernel, and
`train_block` takes them. Everything else trains by the plain loops, which stay the reference.

Written for Pallas' Triton backend while JAX has it (from 0.11 on it is deprecated): it is the only
one that compiles one warp for an experiment without a compiler of our own. Mosaic GPU works in
groups of four warps, on Hopper or newer; `jax-triton` is the same kernel on a package of its own,
and a change of `block.launch` alone; CUDA through `jax.ffi` would give shared memory and 128
registers, at the price of a handler to be built for each jaxlib. When Triton goes the first is the
bridge; until then, and on a JAX without it, programs train by the plain loops and give no error.
"""

import importlib.util
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from srn_jax.cells import Cell
from srn_jax.errors import UserError
from srn_jax.kernels.block import Optimizer, Settings, run
from srn_jax.tasks.batches import weighted
from srn_jax.tasks.task import Task, Tokens

OLDEST = 8.0  # compute capability for which Triton compiles: Colab's T4 has 7.5
TRITON = "jax.experimental.pallas.triton"
SIZES = (16, 32, 64)  # powers of two, and U must fit into registers
LARGEST = 128  # vocabulary, classes: their gradients must fit, too
DECAYS = {
    "adam": {"mu": 0.9, "nu": 0.999},
    "adamw": {"mu": 0.9, "nu": 0.999},
    "rmsprop": {"nu": 0.9},
    "sgd": {},
}


def suits(device: Any, cell: Any, config: Any) -> bool:
    """Whether a device runs kernels, and they know a class of cells and the settings."""
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind:
        return False
    if float(device.compute_capability) < OLDEST or importlib.util.find_spec(TRITON) is None:
        return False
    return obstacle_in(cell, config) is None and understood(cell)


def applies(program: Any) -> bool:
    """Whether the training steps of a program can be a kernel."""
    return obstacle(program) is None


def check(program: Any) -> None:
    """Raise `UserError`, which says why, where a kernel was asked for and does not apply."""
    reason = obstacle(program)
    if reason is not None:
        raise UserError(f"`kernel` takes {reason}, leave it out")


def obstacle(program: Any) -> str | None:
    """What the kernels would take in the place of something in a program; None if they take it."""
    task = program.task
    if not isinstance(task.inputs, Tokens) or task.answers != 1 or type(task).loss is not Task.loss:
        return "tokens, and one answer under cross-entropy"
    if max(task.inputs.vocabulary, task.outputs) > LARGEST:
        return f"at most {LARGEST} tokens and classes, got {task.inputs.vocabulary}, {task.outputs}"
    if program.probes:
        return "no probes"
    return obstacle_in(program.cell, program.config)


def obstacle_in(cell: Any, config: Any) -> str | None:
    """The same for a class of cells and the settings."""
    if not issubclass(cell, Cell):
        return "cells with an update, got " + cell.__name__
    for name in ("hidden_size", "embedding_size"):
        if getattr(config, name) not in SIZES:
            return f"a `{name}` of {', '.join(map(str, SIZES))}, got {getattr(config, name)}"
    if config.layers > 1 or config.bidirectional:
        return "a single layer in one direction"
    if not isinstance(config.optimizer, str) or config.optimizer not in DECAYS:
        return f"an `optimizer` out of {', '.join(DECAYS)}"
    return None


@cache
def understood(cell: Any) -> bool:
    """Whether a kernel can be made of a cell: its operations may be unknown to Triton."""
    size, gates = SIZES[0], cell.gates
    shapes = {name: (gates, size, size) for name in "WU"} | {"b": (gates, 1, size)}
    shapes |= {"c": (gates, 1, size)} if cell.recurrent_bias else {}
    shapes |= {"kernel": (1, size, size), "table": (1, size, size), "bias": (1, 1, size)}
    network = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    batches = jnp.zeros((1, 8, 2), jnp.int8), jnp.zeros((1, 8), jnp.int32), jnp.zeros((1, 8))
    settings = Settings(jnp.zeros(3, jnp.int32), jnp.zeros((3, 1)), jnp.zeros(1))
    try:
        traced = jax.jit(partial(run, cell, Optimizer({}))).trace(batches, [network], settings)
        traced.lower(lowering_platforms=("cuda",))
    except Exception:  # it says so in several ways, and the loops can do all that cells do
        return False
    return True


def train_block(
    program: Any,
    data: Any,
    mask: jax.Array | None,
    parameters: Any,
    optimizer: optax.OptState,
    first: jax.Array,
    last: jax.Array,
    rates: jax.Array | None = None,
    batches: Any = None,
) -> tuple[Any, optax.OptState, jax.Array]:
    """The training steps first <= step < last of an experiment.

    Args:
        program: to which this applies.
        data: of the experiment, padded: `train` has the batches, `hyper` its own settings.
        mask: `[1, time]` or None.
        parameters: by module and name.
        optimizer: its state, in vectors.
        first: scalar.
        last: scalar, at most the places of a block further.
        rates: the learning rate of the step at each place of the block, `[place]`.
        batches: that of each place, where they are not those of `data`, one after another.

    Returns:
        Parameters, optimizer, and the losses `[place]`, NaN where the block has ended.
    """
    config, cell, count = program.config, program.cell, last - first
    begins = 0 if mask is None else jnp.argmax(mask[0])
    every, start = (data.train, first) if batches is None else (batches, 0)
    if every.asked is not None:
        every = jax.vmap(partial(weighted, reduction=config.loss_reduction))(every)
    rule = Optimizer(
        decays=DECAYS[config.optimizer],
        root=1e-15 if config.optimizer == "rmsprop" else 0.0,  # of a decaying sum
        weight_decay=config.weight_decay > 0,
        clip=None if config.clip_norm is None else config.clip,
    )
    settings = Settings(
        numbers=jnp.stack(jax.tree.map(jnp.int32, [start, count, begins])),
        steps=steps_of(rule, rates, first, data.hyper.weight_decay),
        norm=jnp.reshape(jnp.float32(data.hyper.clip_norm), 1),
    )
    unravel = ravel_pytree(parameters)[1]
    moments = {name: optax.tree_utils.tree_get(optimizer, name) for name in rule.decays}
    sums = [unravel(moments[name] / (1 - decay)) for name, decay in rule.decays.items()]
    matrices = [matrices_of(tree, cell.gates) for tree in (parameters, *sums)]
    examples = every.inputs, every.targets, every.weights
    after, losses = run(cell, rule, examples, matrices, settings, every.lengths is not None)
    parameters, *sums = [tree_of(network, parameters) for network in after]
    for (name, decay), tree in zip(rule.decays.items(), sums, strict=True):
        moment = ravel_pytree(tree)[0] * (1 - decay)
        optimizer = optax.tree_utils.tree_set(optimizer, **{name: moment})
    counted = optax.tree_utils.tree_get_all_with_path(optimizer, "count")
    if counted:
        optimizer = optax.tree_utils.tree_set(optimizer, count=counted[0][1] + count)
    return parameters, optimizer, jnp.where(jnp.arange(len(losses)) < count, losses, jnp.nan)


def steps_of(rule: Optimizer, rates: jax.Array, first: jax.Array, weight_decay: Any) -> jax.Array:
    """`Settings.steps`: what Adam's corrections, and factors 1 - decay, make of its constants."""
    taken = first + 1 + jnp.arange(len(rates))
    factor, epsilon = jnp.ones(len(rates)), jnp.zeros(len(rates))
    if "nu" in rule.decays:
        factor = factor / jnp.sqrt(1 - rule.decays["nu"])
    if "mu" in rule.decays:
        mu, nu = (decay ** jnp.float32(taken) for decay in rule.decays.values())
        epsilon = 1e-8 * factor * jnp.sqrt(1 - nu)
        factor = factor * (1 - rule.decays["mu"]) * jnp.sqrt(1 - nu) / (1 - mu)
    return jnp.stack([rates * factor, epsilon, 1 - rates * weight_decay])


def matrices_of(parameters: Any, gates: int) -> dict[str, jax.Array]:
    """What the kernel takes: `[gates, rows, columns]` by name."""
    own = {
        name: jnp.swapaxes(array.reshape(len(array), gates, -1), 0, 1)
        for name, array in parameters["cell"].items()
    }
    table, output = parameters["embedding"]["table"], parameters["output"]
    return own | {
        "table": table[None],
        "kernel": output["kernel"].T[None],
        "bias": output["bias"][None, None],
    }


def tree_of(matrices: dict[str, jax.Array], parameters: Any) -> Any:
    """The inverse of `matrices_of`."""
    return {
        "cell": {
            name: jnp.swapaxes(matrices[name], 0, 1).reshape(array.shape)
            for name, array in parameters["cell"].items()
        },
        "embedding": {"table": matrices["table"][0]},
        "output": {"kernel": matrices["kernel"][0].T, "bias": matrices["bias"][0, 0]},
    }
