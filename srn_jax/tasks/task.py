"""What a task is: how its sequences are drawn, and what a right answer is.

Sequences are padded on the left, so the answer is always asked at the last position, and a mask
tells a network where they begin: padding changes no result.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from srn_jax.config import Facts
from srn_jax.errors import UserError

SETS = 3  # of data: training, development, test
PADDING = -1  # stands in a padded position of tokens; vectors have zeros there
Array = jax.Array | np.ndarray


class Tokens(NamedTuple):
    """Inputs that are whole numbers 0..vocabulary - 1, each embedded as a vector."""

    vocabulary: int


class Vectors(NamedTuple):
    """Inputs that are vectors of `size` numbers, which the cell sees as they are."""

    size: int


class Examples(NamedTuple):
    """Sequences and what must be answered.

    `inputs [..., time]` for tokens, `[..., time, size]` for vectors; `targets [...]`, or
    `[..., answers]` where a sequence has several.
    """

    inputs: Array
    targets: Array


class Dataset(NamedTuple):
    """The three sets of one experiment."""

    train: Examples
    dev: Examples
    test: Examples


class Batches(NamedTuple):
    """A training set in batches, in order; the last one is filled up with weight 0.

    `inputs [batches, batch, ...]`, `targets [batches, batch, ...]` and `weights [batches, batch]`,
    under which a weighted sum over a batch is the mean, or the sum, over its examples.
    """

    inputs: Array
    targets: Array
    weights: Array


class Task:
    """A task to learn; one of your own says `inputs`, `outputs`, `draw`, and what differs here."""

    inputs: Tokens | Vectors
    outputs: int  # size of an answer: classes, or numbers to predict
    answers: int = 1  # how many of the last positions answer
    examples: int = 100  # in a development or test set, and in a unit of the training set
    shortest: int = 1  # length of a sequence
    chance: float | None = None  # accuracy of the best constant answer; None: 1 / outputs
    chance_loss: float | None = None  # loss of an answer that knows nothing; None: log(outputs)
    question: str = "the target of a sequence"  # what is asked, in the words of a report

    def draw(self, key: jax.Array, number: int, length: Any, width: int) -> Examples:
        """Draw examples that do not depend on each other.

        Args:
            key: a typed PRNG key, the only source of randomness.
            number: how many.
            length: scalar, positions of each sequence; it may be traced.
            width: the width to pad to on the left, at least `length`. It is that of a run's longest
                sequences, so what is drawn should not depend on it: with `shape=(width, number)`,
                taken from the last position on, it does not.

        Returns:
            Examples with `inputs [number, width, ...]`.
        """
        raise UserError(
            f"{type(self).__name__}: no method draw(key, number, length, width), a task has one"
        )

    def draw_set(self, key: jax.Array, units: int, length: Any, width: int) -> Examples:
        """Draw a training, development or test set of `units * examples` examples."""
        return self.draw(key, units * self.examples, length, width)

    def loss(self, outputs: jax.Array, targets: Array) -> jax.Array:
        """Cross-entropy, `[..., outputs]` and `[...]` -> `[...]`."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)

    def correct(self, outputs: jax.Array, targets: Array) -> jax.Array:
        """Whether the most likely class is the right one, `[..., outputs]` and `[...]` -> `[...]`.

        Accuracy is the share of answers for which this is True.
        """
        return jnp.argmax(outputs, axis=-1) == targets

    def right_answer(self, tokens: np.ndarray) -> int | None:
        """The right answer to `tokens [time]` that a user typed; None if there is no telling."""
        return None

    def probe_targets(self, examples: Examples) -> dict[str, Array]:
        """What may be looked for in a network's states: whole numbers `[...]` by name."""
        return {"target": examples.targets}


def draw_dataset(task: Task, key: jax.Array, units: int, length: Any, width: int) -> Dataset:
    """Draw the training, development and test set of one experiment."""
    keys = jax.random.split(key, SETS)

    def draw(key: jax.Array, units: int) -> Examples:
        return blanked(task.draw_set(key, units, length, width), length)

    train = draw(keys[0], units)
    # One after the other: programs that draw are large, and two of them take longer to compile.
    others = jax.lax.map(lambda other: draw(other, 1), keys[1:])
    return Dataset(train, *map(Examples, *others))


def draw_fresh(
    task: Task, key: jax.Array, step: jax.Array, number: int, length: Any, width: int
) -> Examples:
    """Draw the examples of a training step; `key` is that of the data."""
    # `split` gives the keys 0, 1 and 2 of `fold_in`, with which the sets of a run are drawn.
    drawn = task.draw(jax.random.fold_in(key, SETS + step), number, length, width)
    return blanked(drawn, length)


def check_length(task: Task, length: int) -> None:
    """Raise `UserError` for a length at which a task is not defined."""
    if length < task.shortest:
        raise UserError(
            f"a sequence of this task has at least {task.shortest} positions, got length {length}"
        )


def facts_of(task: Task) -> Facts:
    """What those who show results need to know of a task."""
    loss = math.log(task.outputs) if task.chance_loss is None else task.chance_loss
    return Facts(
        question=task.question,
        chance=float(1 / task.outputs if task.chance is None else task.chance),
        chance_loss=float(loss),
        test_examples=int(task.examples),
    )


def place_of(length: Any, width: int) -> jax.Array:
    """The position `[width]` in each column of left-padded sequences; negative in padding."""
    return jnp.arange(width) - (width - length)


def mask_of(length: Any, width: int) -> jax.Array:
    """Where sequences of one length, padded to a width, have begun: booleans `[width]`."""
    return place_of(length, width) >= 0


def blanked(examples: Examples, length: Any) -> Examples:
    """Examples of a length with nothing in their padding, whatever a task has drawn there."""
    inputs = examples.inputs
    mask = mask_of(length, inputs.shape[1])
    if inputs.ndim == 2:
        return examples._replace(inputs=blank_tokens(inputs, mask[None]))
    return examples._replace(inputs=jnp.where(mask[None, :, None], inputs, 0))


def blank_tokens(tokens: Array, mask: jax.Array) -> jax.Array:
    """Tokens `[batch, time]` with `PADDING` where a mask, so or `[1, time]`, is False."""
    signed = jnp.issubdtype(tokens.dtype, jnp.signedinteger)
    return jnp.where(mask, tokens if signed else jnp.asarray(tokens, jnp.int32), PADDING)


def cut_inputs(inputs: Array, kind: Tokens | Vectors, width: int) -> Array:
    """Inputs that were padded to a larger width, padded to `width`."""
    return inputs[..., -width:] if isinstance(kind, Tokens) else inputs[..., -width:, :]


def to_batches(examples: Examples, batch_size: int, reduction: str = "mean") -> Batches:
    """Cut examples into batches in order, without shuffling, the last one kept."""
    number = len(examples.targets)
    batches = -(-number // batch_size)
    filled = batches * batch_size
    weights = batch_weights(number, batch_size, reduction) * batches

    def cut(array: Array, **filler: Any) -> jax.Array:
        padding = [(0, filled - number)] + [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(jnp.asarray(array), padding, **filler)
        return array.reshape(batches, batch_size, *array.shape[1:])

    # With an example that there is: a loss need not be finite for another.
    inputs, targets = (cut(array, mode="edge") for array in examples)
    return Batches(inputs, targets, cut(weights))


def batch_weights(number: int, batch_size: int, reduction: str = "mean") -> np.ndarray:
    """Weights `[example]` under which a sum over examples is the mean over batches of their losses.

    The loss of a batch is the mean over its examples, or their sum. With 100 examples in batches
    of 8 the last batch has 4, so in a mean its examples count twice as much.
    """
    batches = -(-number // batch_size)
    sizes = np.full(batches, batch_size)
    sizes[-1] = number - (batches - 1) * batch_size
    each = 1.0 / (sizes if reduction == "mean" else np.ones(batches)) / batches
    return np.repeat(each, sizes).astype(np.float32)


def overlap(dataset: Dataset) -> jax.Array:
    """How many test sequences also occur in the training set (scalar int)."""
    test, train = (s.inputs.reshape(len(s.inputs), -1) for s in (dataset.test, dataset.train))
    return jnp.sum(jax.lax.map(lambda row: jnp.any(jnp.all(row[None] == train, axis=1)), test))
