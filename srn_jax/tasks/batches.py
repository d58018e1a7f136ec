"""Examples cut into batches, and the weights under which a sum over losses is their mean."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.tasks.task import Array, Examples, Task


class Batches(NamedTuple):
    """A training set in batches; the last one is filled up with weight 0."""

    inputs: Array  # [batches, batch, ...]
    targets: Array  # likewise
    weights: Any  # likewise, for the sum of a batch's losses; None where `weighted` will find them
    lengths: Array | None = None  # [batches, batch]
    asked: Array | None = None  # weights of the task's own, like targets


def to_batches(examples: Examples, batch_size: int, reduction: str = "mean") -> Batches:
    """Cut examples into batches in order, without shuffling, the last one kept."""
    number = len(examples.targets)
    batches = -(-number // batch_size)

    def cut(array: Any, mode: str) -> jax.Array:
        padding = [(0, batches * batch_size - number)] + [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(jnp.asarray(array), padding, mode=mode)
        return array.reshape(batches, batch_size, *array.shape[1:])

    # With an example that there is: a loss need not be finite for another.
    inputs, targets, lengths = jax.tree.map(lambda array: cut(array, "edge"), examples[:3])
    if examples.weights is not None:
        return Batches(inputs, targets, None, lengths, cut(examples.weights, "constant"))
    weights = set_weights(examples.targets.shape, batch_size, reduction) * batches
    return Batches(inputs, targets, cut(weights, "constant"), lengths)


def whole_set(examples: Examples, batch_size: int, reduction: str = "mean") -> Batches:
    """Examples as one batch: the mean over batches of losses, or over all that is `asked`."""
    inputs, targets, lengths, asked = examples
    if asked is None:
        weights = set_weights(targets.shape, batch_size, reduction)
        return Batches(inputs, targets, jnp.asarray(weights), lengths)
    every = asked if reduction == "mean" else asked / -(-len(targets) // batch_size)
    return weighted(Batches(inputs, targets, None, lengths, every), reduction)


def weighted(batch: Batches, reduction: str) -> Batches:
    """A batch with the weights of its losses: what is asked over its sum, or as it is."""
    if batch.asked is None:
        return batch
    total = jnp.sum(batch.asked) if reduction == "mean" else 1.0
    weights = batch.asked / jnp.where(total == 0, 1.0, total)  # where nothing is asked at all
    return batch._replace(weights=weights, asked=None)


def reordered(batches: Batches, number: jax.Array, order: jax.Array, examples: int) -> Batches:
    """Batch `number` of so many `examples` if it has those of `order [batch]`; others fill it."""

    def take(array: Array) -> jax.Array:
        return jnp.asarray(array).reshape(-1, *array.shape[2:])[jnp.minimum(order, examples - 1)]

    new = jax.tree.map(take, batches._replace(weights=None))
    if new.asked is None:
        return new._replace(weights=jnp.asarray(batches.weights)[number])
    fills = (order >= examples).reshape(-1, *[1] * (new.asked.ndim - 1))
    return new._replace(asked=jnp.where(fills, 0, new.asked))


def cut_to(batches: Batches, task: Task, width: int) -> Batches:
    """Batches that were padded to a larger width, padded to `width`."""
    cut = batches._replace(inputs=batches.inputs[:, :, -width:])
    if task.answers is not None:
        return cut
    targets, asked = jax.tree.map(lambda array: array[:, :, -width:], (cut.targets, cut.asked))
    return cut._replace(targets=targets, asked=asked)


def set_weights(shape: tuple[int, ...], batch_size: int, reduction: str = "mean") -> np.ndarray:
    """Weights like targets of a shape, under which their sum is the mean over batches of losses.

    The loss of a batch is the mean over all its answers, or the sum. With 100 examples in batches
    of 8 the last batch has 4, so in a mean its examples count twice as much.
    """
    number, *more = shape
    batches = -(-number // batch_size)
    sizes = np.full(batches, batch_size)
    sizes[-1] = number - (batches - 1) * batch_size
    each = 1.0 / (sizes if reduction == "mean" else np.ones(batches)) / batches
    each = np.repeat(each, sizes).astype(np.float32)
    if reduction == "mean":
        each = each / np.float32(np.prod(more, dtype=int))
    return np.broadcast_to(each.reshape(-1, *[1] * len(more)), shape)
