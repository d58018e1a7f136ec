"""The data of ONE experiment: the keys that they come from, and the batch of each step."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.tasks.batches import Batches, reordered, to_batches, weighted, whole_set
from srn_jax.tasks.task import SETS, Dataset, Examples, draw_fresh, draw_set, mask_of
from srn_jax.training.histories import spanned
from srn_jax.training.network import Hyperparameters
from srn_jax.training.program import Program

GENERATOR = "threefry2x32"  # whatever the user's JAX draws with


class ExperimentData(NamedTuple):
    """What one experiment trains on and is measured by."""

    length: Any  # scalar
    hyper: Hyperparameters
    key: jax.Array  # data of the key from which data are drawn
    train: Batches | None  # None where every step draws its own
    dev: Examples


def experiment_key(seed: jax.Array | int, length: jax.Array | int) -> jax.Array:
    """The key from which all randomness of one experiment comes, however JAX is configured."""
    words = jnp.stack([jnp.uint32(0), jnp.asarray(seed, jnp.uint32)])  # as `jax.random.key` has it
    return jax.random.fold_in(jax.random.wrap_key_data(words, impl=GENERATOR), length)


def keys_of(seed: jax.Array | int, length: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The keys of an experiment's data and of its parameters."""
    data_key, parameter_key = jax.random.split(experiment_key(seed, length))
    return data_key, parameter_key


def data_of(
    program: Program,
    width: int,
    seed: jax.Array,
    length: jax.Array,
    hyper: Hyperparameters,
    files: Dataset | None = None,
) -> ExperimentData:
    """What an experiment trains on and is measured by; arguments as `experiment.prepare`."""
    config, key = program.config, keys_of(seed, length)[0]
    if files is not None:
        train, dev = files.train, files.dev
    else:
        dev = draw_set(program.task, key, 1, 1, length, width)
    data = ExperimentData(length, hyper, jax.random.key_data(key), None, dev)
    if config.fresh_data:
        return data
    if files is None:
        train = draw_set(program.task, key, 0, config.multiplicity, length, width)
    return data._replace(train=to_batches(train, config.batch_size, config.loss_reduction))


def batch_of(
    program: Program,
    data: ExperimentData,
    step: jax.Array,
    width: int,
    order: jax.Array | None = None,
) -> Batches:
    """The batch of a global step: the next one of the training set, or a fresh one.

    With `order [batch]` it has these examples of the training set.
    """
    size, reduction = program.config.batch_size, program.config.loss_reduction
    if data.train is None:
        key = jax.random.wrap_key_data(data.key, impl=GENERATOR)
        examples = draw_fresh(program.task, key, step, size, data.length, width)
        return whole_set(examples, size, reduction)
    number = step % program.steps_an_epoch
    if order is None:
        batch = jax.tree.map(partial(at, place=number), data.train)
    else:
        batch = reordered(data.train, number, order, program.train_examples)
    return weighted(batch, reduction)


def orders_of(program: Program, data: ExperimentData, epoch: jax.Array) -> jax.Array | None:
    """The examples of each batch of the epochs of a block, `[batches, batch]`, of which the first
    is `epoch`; None if they keep their order.
    """  # noqa: D205
    if not program.config.shuffle:
        return None
    number, size = program.train_examples, program.config.batch_size
    key = jax.random.wrap_key_data(data.key, impl=GENERATOR)

    def order(epoch: jax.Array) -> jax.Array:
        # `split` gives the keys 0, 1 and 2 of `fold_in`, with which the sets are drawn.
        drawn = jax.random.permutation(jax.random.fold_in(key, SETS + epoch), number)
        filled = program.steps_an_epoch * size
        return jnp.concatenate([drawn, jnp.arange(number, filled)]).reshape(-1, size)

    return jax.vmap(order)(epoch + jnp.arange(spanned(program))).reshape(-1, size)


def mask_for(batch: Batches, mask: jax.Array | None) -> jax.Array | None:
    """Where sequences have begun, `[batch, time]`, if each has its own length; else as it is."""
    if batch.lengths is None:
        return mask
    return mask_of(jnp.asarray(batch.lengths)[:, None], batch.inputs.shape[1])


def at(array: jax.Array, place: jax.Array) -> jax.Array:
    """An array `[place, ...]` at a place that is known to be one of its own."""
    return jax.lax.dynamic_index_in_dim(array, place, 0, False, allow_negative_indices=False)


def put(array: jax.Array, value: jax.Array, place: jax.Array) -> jax.Array:
    """An array `[place, ...]` with a value at a place that is known to be one of its own."""
    update = jax.lax.dynamic_update_index_in_dim
    return update(array, value, place, 0, allow_negative_indices=False)
