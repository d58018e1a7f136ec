"""DigitSum as arrays: a pure generator, and the batches in which an experiment sees its data.

Sequences shorter than the longest are padded on the left with `PADDING`. A padded position adds
nothing to the network (its one-hot row is zero and its bias is masked with it), so a state that
starts at zero stays at exactly zero until the sequence begins, the answer is always asked at the
last position, and padding changes no result.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.config import DEV_MULTIPLICITY, NUM_DIGITS, NUM_PAIRS, TEST_MULTIPLICITY
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import Sequences, Splits, check_digit_sum

PADDING = -1
Array = jax.Array | np.ndarray


class Examples(NamedTuple):
    """Labelled sequences: `digits [..., length]` int8 and `labels [...]` int32."""

    digits: Array
    labels: Array


class Dataset(NamedTuple):
    """The three sets of one experiment."""

    train: Examples
    dev: Examples
    test: Examples


class Batches(NamedTuple):
    """A training set in batches, in file order; the last one is filled up with weight 0.

    `digits [batches, batch, length]`, `labels [batches, batch]` and `weights [batches, batch]`:
    1 / size of the batch for its examples, so that a weighted sum is the mean over the batch.
    """

    digits: jax.Array
    labels: jax.Array
    weights: jax.Array


def draw_examples(
    key: jax.Array, length: jax.Array | int, multiplicity: int, max_length: int
) -> Examples:
    """Draw DigitSum: `multiplicity` examples for each pair of digits, in order.

    Length 5, multiplicity 2, max_length 6 (`.` is padding):

        . 0 0 0 0 3 -> 0
        . 0 0 9 0 0 -> 0
        . 0 1 0 4 0 -> 1

    Args:
        key: a typed PRNG key.
        length: scalar from 3 to max_length; one that is traced is the caller's to check.
        multiplicity: examples for each of the 100 pairs.
        max_length: the width to pad to; it does not influence the draws.

    Returns:
        Examples with `digits [100 * multiplicity, max_length]`.

    Raises:
        UserError: a `ValueError`, where DigitSum is not defined or does not fit.
    """
    known = max_length if isinstance(length, jax.core.Tracer) else int(length)
    check_digit_sum(known, multiplicity)
    if known > max_length:
        raise UserError(f"length {known} does not fit into max_length {max_length}")
    number = NUM_PAIRS * multiplicity
    position_key, digit_key = jax.random.split(key)
    position = jax.random.randint(position_key, (number,), 2, length)
    digit = jax.random.randint(digit_key, (number,), 0, NUM_DIGITS)
    pair = jnp.repeat(jnp.arange(NUM_PAIRS), multiplicity)
    first, second = pair // NUM_DIGITS, pair % NUM_DIGITS

    place = jnp.arange(max_length)[None, :] - (max_length - length)  # negative in the padding
    digits = jnp.where(place == position[:, None], digit[:, None], 0)
    digits = jnp.where(place == 0, first[:, None], digits)
    digits = jnp.where(place == 1, second[:, None], digits)
    digits = jnp.where(place < 0, PADDING, digits)
    return Examples(digits.astype(jnp.int8), first + second)


def draw_dataset(
    key: jax.Array, length: jax.Array | int, multiplicity: int, max_length: int
) -> Dataset:
    """Draw the training, development and test set of one experiment; see `draw_examples`."""
    train_key, dev_key, test_key = jax.random.split(key, 3)
    return Dataset(
        train=draw_examples(train_key, length, multiplicity, max_length),
        dev=draw_examples(dev_key, length, DEV_MULTIPLICITY, max_length),
        test=draw_examples(test_key, length, TEST_MULTIPLICITY, max_length),
    )


def pad_examples(sequences: Sequences, max_length: int) -> Examples:
    """Sequences read from a file as NumPy arrays, padded on the left to `max_length`."""
    width = max_length - sequences.digits.shape[1]
    digits = np.pad(sequences.digits, ((0, 0), (width, 0)), constant_values=PADDING)
    return Examples(digits, sequences.labels)


def pad_splits(splits: Splits, max_length: int) -> Dataset:
    """The three sets of one length, read from files; see `pad_examples`."""
    return Dataset(*(pad_examples(s, max_length) for s in (splits.train, splits.dev, splits.test)))


def to_batches(examples: Examples, batch_size: int) -> Batches:
    """Cut examples into batches in file order, without shuffling, the last one kept."""
    number = examples.labels.shape[0]
    batches = -(-number // batch_size)
    filled = batches * batch_size
    weights = jnp.asarray(batch_mean_weights(number, batch_size) * batches)  # 1 / size of the batch

    def cut(array: Array, filler: int) -> jax.Array:
        padding = [(0, filled - number)] + [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(array, padding, constant_values=filler)
        return array.reshape(batches, batch_size, *array.shape[1:])

    return Batches(cut(examples.digits, PADDING), cut(examples.labels, 0), cut(weights, 0))


def batch_mean_weights(number: int, batch_size: int) -> np.ndarray:
    """Weights `[example]` under which a sum over examples is the mean over batches of batch means.

    With 100 examples in batches of 8 the last batch has 4, so its examples count twice as much.
    """
    batches = -(-number // batch_size)
    sizes = np.full(batches, batch_size)
    sizes[-1] = number - (batches - 1) * batch_size
    return np.repeat(1.0 / (sizes * batches), sizes).astype(np.float32)


def overlap(dataset: Dataset) -> jax.Array:
    """How many test sequences also occur in the training set (scalar int)."""
    same = (dataset.test.digits[:, None, :] == dataset.train.digits[None, :, :]).all(axis=-1)
    return same.any(axis=1).sum()
