"""Training steps as GPU kernels: the only place that knows Pallas, and its only door.

`suits` says whether they are to be used, `agrees` tries them, and `train_block` trains what
`applies`: Adam without clipping on tokens, sequences of one length, one answer. All else trains by
the plain loops, which are the reference.

Written for Pallas' Triton backend, deprecated since jax 0.11, because it alone makes one warp an
experiment without a compiler of our own: Mosaic GPU has groups of four warps, on Hopper or newer;
CUDA through `jax.ffi` wants a handler built for each jaxlib. When it goes, jax-triton is nearest,
with the kernel written anew in its language; without it, the loops train.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from srn_jax.cells import Cell
from srn_jax.errors import warn
from srn_jax.tasks import DigitSum
from srn_jax.tasks.task import Task, Tokens

OLDEST = 8.0  # compute capability for which Triton compiles: Colab's T4 has 7.5
SIZES = (16, 32, 64)  # powers of two, and U must fit into registers
LARGEST = 128  # vocabulary, classes: their gradients must fit, too
MU, NU = 0.9, 0.999  # the decays of Adam's moments


def suits(device: Any, program: Any) -> bool:
    """Whether a device runs kernels, and they know what the program does."""
    known = device.platform == "gpu" and "NVIDIA" in device.device_kind
    return known and float(device.compute_capability) >= OLDEST and applies(program)


def applies(program: Any, batches: Any = None) -> bool:
    """Whether the steps of a program can be a kernel (on batches), if Triton knows the cell's."""
    task, cell, config = program.task, program.cell, program.config
    return (
        isinstance(task.inputs, Tokens)
        and task.answers == 1
        and type(task).loss is Task.loss
        and max(task.inputs.vocabulary, task.outputs) <= LARGEST
        and not program.probes
        and (isinstance(cell, type) and issubclass(cell, Cell))
        and {config.hidden_size, config.embedding_size} <= set(SIZES)
        and config.layers == 1
        and (config.optimizer, config.clip_norm) == ("adam", None)
        and not callable(config.learning_rate)
        and config.schedule == "constant"
        and not (config.bidirectional or config.shuffle or config.fresh_data)
        and (batches is None or (batches.lengths is None and batches.asked is None))
    )


@cache
def agrees(program: Any, experiment: Any, hyperparameters_of: Any) -> bool:
    """Whether small blocks have the losses of the loops, whose module is given; warns if not."""
    config = replace(program.config, steps=20, eval_interval=20, multiplicity=1)
    small = replace(program, task=DigitSum(), config=config, train_examples=DigitSum.examples)

    def losses(seed: jax.Array, kernel: bool) -> Any:
        own, hyper = replace(small, kernel=kernel), hyperparameters_of(config)
        state, _, data = experiment.prepare(own, 6, seed, jnp.int32(5), hyper)
        arrays = data, jnp.int32(0), state.parameters, state.optimizer
        return experiment.take_steps(own, 6, True, *arrays)[2]["train_loss"]

    try:
        both = jax.jit(jax.vmap(lambda seed: (losses(seed, True), losses(seed, False))))
        found, right = both(jnp.arange(2, dtype=jnp.uint32))
        if np.allclose(found, right, rtol=1e-4, atol=0):
            return True
        problem = f"losses are {found[0]}, not {right[0]}"
    except Exception as error:  # compilers have several
        problem = f"{type(error).__name__}: {error}"
    warn(f"the GPU kernels fail, so the plain loops train: {' '.join(problem.split())[:200]}")
    return False


def train_block(
    program: Any, data: Any, mask: Any, parameters: Any, optimizer: Any, first: Any, last: Any
) -> tuple[Any, Any, jax.Array]:
    """The training steps first <= step < last of an experiment.

    `program`, to which this applies, `mask` `[1, time]` or None, and the rest are as in
    `experiment.take_steps`, with at most the places of a block. Returns parameters, optimizer, and
    the losses `[place]`, NaN where the block has ended.
    """
    from srn_jax.kernels.block import run  # here: Pallas takes as long to load as all our own

    count, begins = last - first, 0 if mask is None else jnp.argmax(mask[0])
    # Moments are decaying sums in the kernel, so Adam's rate m / (sqrt(v) + epsilon) has the
    # corrections of its moments, and the factors 1 - decay, in the rate and in epsilon.
    taken = first + 1 + jnp.arange(program.places)
    mu, nu = jnp.float32(MU) ** taken, jnp.float32(NU) ** taken
    scale = jnp.sqrt(1 - nu) / np.sqrt(1 - NU)
    rates = jnp.stack([data.hyper.learning_rate * scale * (1 - MU) / (1 - mu), 1e-8 * scale])
    numbers = jnp.stack([jnp.int32(number) for number in (first, count, begins)])

    tensors, places = layout(parameters, program.cell.gates)
    vector, unravel = ravel_pytree(parameters)
    old = {name: optax.tree_utils.tree_get(optimizer, name) for name in ("mu", "nu", "count")}
    vectors = [one[places] for one in (vector, old["mu"] / (1 - MU), old["nu"] / (1 - NU))]
    after, losses = run(program.cell, tensors, data.train, vectors, numbers, rates)
    vector, mu, nu = (one[np.argsort(places)] for one in after)
    new = {"mu": mu * (1 - MU), "nu": nu * (1 - NU), "count": old["count"] + count}
    losses = jnp.where(jnp.arange(len(losses)) < count, losses, jnp.nan)
    return unravel(vector), optax.tree_utils.tree_set(optimizer, **new), losses


def layout(parameters: Any, gates: int) -> tuple[dict[str, Any], np.ndarray]:
    """Where each tensor lies in the kernel's vector, and the places of that in `ravel_pytree`'s."""
    from srn_jax.kernels.block import ORDER, Tensor

    leaves, tree = jax.tree.flatten(parameters)
    ends = np.cumsum([leaf.size for leaf in leaves])
    ranges = zip(np.split(np.arange(ends[-1]), ends[:-1]), leaves, strict=True)
    network = jax.tree.unflatten(tree, [own.reshape(leaf.shape) for own, leaf in ranges])
    own = {name: each.reshape(len(each), gates, -1) for name, each in network["cell"].items()}
    found = {name: each.swapaxes(0, 1) for name, each in own.items()}
    found["table"] = network["embedding"]["table"][None]
    found["kernel"] = network["output"]["kernel"].T[None]
    found["bias"] = network["output"]["bias"][None, None]
    found = {name: found[name] for name in ORDER if name in found}
    starts = np.cumsum([0, *(each.size for each in found.values())]).tolist()
    pairs = zip(starts, found.items(), strict=False)
    tensors = {name: Tensor(start, *each.shape) for start, (name, each) in pairs}
    return tensors, np.concatenate([each.ravel() for each in found.values()])
