"""The data of ONE experiment: the keys that they come from, and the batch of each step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.tasks.batches import Batches, reordered, to_batches, weighted, whole_set
from srn_jax.tasks.task import SETS, Dataset, Examples, draw_fresh, draw_set, mask_of, overlap
from srn_jax.training.histories import spanned
from srn_jax.training.program import Hyperparameters, Program

GENERATOR = "threefry2x32"  # whatever the user's JAX draws with


class ExperimentData(NamedTuple):
    """What one experiment trains on and is measured by."""

    length: Any  # scalar
    hyper: Hyperparameters | None
    key: jax.Array  # data of the key from which data are drawn
    train: Batches | None  # None where every step draws its own
    dev: Examples
    test: Examples
    overlap: jax.Array | None  # how many test sequences are in the training set, scalar


def keys_of(seed: jax.Array | int, length: jax.Array | int) -> tuple[jax.Array, ...]:
    """The keys of an experiment's data and of its parameters, however JAX is configured."""
    words = jnp.stack([jnp.uint32(0), jnp.asarray(seed, jnp.uint32)])  # as `jax.random.key` has it
    key = jax.random.fold_in(jax.random.wrap_key_data(words, impl=GENERATOR), length)
    return tuple(jax.random.split(key))


def data_of(
    program: Program, width: int, seed, length, hyper: Hyperparameters | None, files: Dataset | None
) -> ExperimentData:
    """What an experiment trains on and is measured by; arguments as `experiment.prepare`."""
    config, key = program.config, keys_of(seed, length)[0]
    sizes = enumerate((config.multiplicity, 1, 1))
    sets: Any = files or [draw_set(program.task, key, n, size, length, width) for n, size in sizes]
    words = jax.random.key_data(key)
    data = ExperimentData(length, hyper, words, None, sets[1], sets[2], None)
    if config.fresh_data:
        return data
    train = to_batches(sets[0], config.batch_size, config.loss_reduction)
    return data._replace(train=train, overlap=overlap(sets[0], sets[2]))


def batch_of(program: Program, data: ExperimentData, step, width: int, order=None) -> Batches:
    """The batch of a step: the next of the training set, that of an `order [batch]`, or fresh."""
    size, reduction = program.config.batch_size, program.config.loss_reduction
    if data.train is None:
        key = jax.random.wrap_key_data(data.key, impl=GENERATOR)
        examples = draw_fresh(program.task, key, step, size, data.length, width)
        return whole_set(examples, size, reduction)
    number = step % program.steps_an_epoch
    if order is None:
        batch = jax.tree.map(lambda array: at(array, number), data.train)
    else:
        batch = reordered(data.train, number, order, program.train_examples)
    return weighted(batch, reduction)


def orders_of(program: Program, data: ExperimentData, epoch: jax.Array) -> jax.Array:
    """The examples of each batch, `[batches, batch]`, of a block's epochs from `epoch` on."""
    number, size = program.train_examples, program.config.batch_size
    key = jax.random.wrap_key_data(data.key, impl=GENERATOR)

    def order(epoch: jax.Array) -> jax.Array:
        # `split` gives the keys 0, 1 and 2 of `fold_in`, with which the sets are drawn.
        drawn = jax.random.permutation(jax.random.fold_in(key, SETS + epoch), number)
        filled = program.steps_an_epoch * size
        return jnp.concatenate([drawn, jnp.arange(number, filled)])

    epochs = epoch + jnp.arange(spanned(program, program.steps_an_epoch))
    return jax.vmap(order)(epochs).reshape(-1, size)


def begun(batch: Batches, mask: jax.Array | None) -> jax.Array | None:
    """Where sequences have begun, `[batch, time]`, if each has its own length; else as it is."""
    if batch.lengths is None:
        return mask
    return mask_of(jnp.asarray(batch.lengths)[:, None], batch.inputs.shape[1])


def at(array: jax.Array, place: jax.Array) -> jax.Array:
    """An array `[place, ...]` at a place that is known to be one of its own."""
    return jax.lax.dynamic_index_in_dim(array, place, 0, False, allow_negative_indices=False)
