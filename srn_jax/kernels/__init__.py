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
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from srn_jax.cells import Cell
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
    if float(device.compute_capability) < OLDEST or not available():
        return False
    return fits(cell, config) and understood(cell)


@cache
def available() -> bool:
    """Whether this JAX has what the kernels are written for."""
    try:
        return importlib.util.find_spec(TRITON) is not None
    except ModuleNotFoundError:  # nor what that is a part of
        return False


def applies(program: Any) -> bool:
    """Whether the training steps of a program can be a kernel."""
    task = program.task
    return (
        isinstance(task.inputs, Tokens)
        and task.answers == 1
        and type(task).loss is Task.loss
        and max(task.inputs.vocabulary, task.outputs) <= LARGEST
        and not program.probes
        and fits(program.cell, program.config)
        and available()
    )


def fits(cell: Any, config: Any) -> bool:
    """Whether a class of cells and the settings are such that the kernels know."""
    return (
        isinstance(cell, type)
        and issubclass(cell, Cell)
        and {config.hidden_size, config.embedding_size} <= set(SIZES)
        and (config.layers, config.bidirectional) == (1, False)
        and isinstance(config.optimizer, str)
        and config.optimizer in DECAYS
        and not callable(config.learning_rate)
        and (config.schedule, config.shuffle, config.fresh_data) == ("constant", False, False)
    )


@cache
def understood(cell: Any) -> bool:
    """Whether a kernel can be made of a cell: its operations may be unknown to Triton."""
    from srn_jax.kernels.block import launch
    from srn_jax.kernels.residuals import Residuals

    shape = 8, SIZES[0]

    def kernel(sync, quotient, given, out):
        residuals, sides = Residuals(cell, shape), [given[...]] * cell.gates
        state = given[...] if cell.states == 1 else (given[...],) * cell.states
        new, kept = residuals.forward(sides, sides, state)
        out[...] = sum(jax.tree.leaves(residuals.backward(kept, state, new, new)))

    call = launch(kernel, jax.ShapeDtypeStruct(shape, jnp.float32), interpret=False)
    try:
        jax.jit(call).trace(jnp.zeros(shape)).lower(lowering_platforms=("cuda",))
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

    Returns:
        Parameters, optimizer, and the losses `[place]`, NaN where the block has ended.
    """
    # Here, since Pallas takes as long to load as all our own.
    from srn_jax.kernels.block import Plan, Settings, run

    config, hyper, batches = program.config, data.hyper, data.train
    decays, count = DECAYS[config.optimizer], last - first
    begins = 0 if mask is None else jnp.argmax(mask[0])
    if batches.asked is not None:
        batches = jax.vmap(partial(weighted, reduction=config.loss_reduction))(batches)
    tensors, places = layout(parameters, program.cell.gates)
    plan = Plan(
        program.cell,
        tensors,
        decays,
        root=1e-15 if config.optimizer == "rmsprop" else 0.0,  # of a decaying sum
        weight_decay=config.weight_decay > 0,
        clip=None if config.clip_norm is None else config.clip,
        ragged=batches.lengths is not None,
    )
    settings = Settings(
        numbers=jnp.stack([jnp.int32(number) for number in (first, count, begins)]),
        steps=steps_of(decays, hyper, first, program.places),
        norm=jnp.reshape(jnp.float32(hyper.clip_norm), 1),
    )
    vector, unravel = ravel_pytree(parameters)
    moments = [optax.tree_utils.tree_get(optimizer, name) for name in decays]
    sums = [m / (1 - decay) for m, decay in zip(moments, decays.values(), strict=True)]
    vectors = [one[places] for one in (vector, *sums)]
    after, losses = run(plan, (batches.inputs, batches.targets, batches.weights), vectors, settings)
    vector, *sums = [one[np.argsort(places)] for one in after]
    new = {name: one * (1 - decays[name]) for name, one in zip(decays, sums, strict=True)}
    counted = optax.tree_utils.tree_get_all_with_path(optimizer, "count")
    if counted:
        new["count"] = counted[0][1] + count
    if new:
        optimizer = optax.tree_utils.tree_set(optimizer, **new)
    losses = jnp.where(jnp.arange(len(losses)) < count, losses, jnp.nan)
    return unravel(vector), optimizer, losses


def steps_of(decays: Mapping[str, float], hyper: Any, first: jax.Array, places: int) -> jax.Array:
    """`Settings.steps`: what Adam's corrections, and factors 1 - decay, make of its constants."""
    taken = first + 1 + jnp.arange(places)
    factor, epsilon = jnp.ones(places), jnp.zeros(places)
    if "nu" in decays:
        factor = factor / jnp.sqrt(1 - decays["nu"])
    if "mu" in decays:
        mu, nu = (jnp.float32(decay) ** taken for decay in decays.values())
        epsilon = 1e-8 * factor * jnp.sqrt(1 - nu)
        factor = factor * (1 - decays["mu"]) * jnp.sqrt(1 - nu) / (1 - mu)
    rate, left = hyper.learning_rate, 1 - hyper.learning_rate * hyper.weight_decay
    return jnp.stack([rate * factor, epsilon, jnp.full(places, left)])


def layout(parameters: Any, gates: int) -> tuple[dict[str, Any], np.ndarray]:
    """Where the kernel has each tensor in its vector, and the places of that in `ravel_pytree`'s.

    Gates are one after another, and the output layer's kernel is transposed.
    """
    from srn_jax.kernels.block import ORDER, Tensor

    leaves, tree = jax.tree.flatten(parameters)
    starts = np.cumsum([0, *(leaf.size for leaf in leaves)])
    ranges = [start + np.arange(leaf.size) for start, leaf in zip(starts, leaves, strict=False)]
    shaped = [own.reshape(leaf.shape) for own, leaf in zip(ranges, leaves, strict=True)]
    network = jax.tree.unflatten(tree, shaped)
    found = {
        name: own.reshape(len(own), gates, -1).swapaxes(0, 1)
        for name, own in network["cell"].items()
    }
    found["table"] = network["embedding"]["table"][None]
    found["kernel"] = network["output"]["kernel"].T[None]
    found["bias"] = network["output"]["bias"][None, None]
    tensors, start = {}, 0
    for name in ORDER:
        if name in found:
            tensors[name] = Tensor(start, *found[name].shape)
            start = tensors[name].end
    return tensors, np.concatenate([found[name].ravel() for name in tensors])
