"""What a task is: how its sequences are drawn, and what a right answer is.

Sequences are padded on the left, so they all end at the last position, and a mask tells a network
where they begin: padding changes no result.
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
    """Sequences and what must be answered; the first axis is that of examples."""

    inputs: Array  # tokens [example, width], or vectors [example, width, size]
    targets: Array  # [example], [example, answers], or [example, width] where all positions answer
    lengths: Array | None = None  # [example], where sequences, padded on the left, have their own
    weights: Array | None = None  # of the losses, like targets: 0 for what is not asked


class Dataset(NamedTuple):
    """The three sets of one experiment, which have the same width; None where one is not wanted."""

    train: Examples
    dev: Examples
    test: Examples | None = None


class Task:
    """A task to learn; one of your own says `inputs`, `outputs`, `draw`, and what differs here."""

    inputs: Tokens | Vectors
    outputs: int  # size of an answer: classes, or numbers to predict
    answers: int | None = 1  # how many of the last positions answer; None: all of them
    examples: int = 100  # in a development or test set, and in a unit of the training set
    shortest: int = 1  # length of a sequence
    chance: float | None = None  # accuracy of the best constant answer; None: 1 / outputs
    chance_loss: float | None = None  # of knowing nothing; None: log(outputs); NaN: not one number
    question: str = "the target of a sequence"  # what is asked, in the words of a report
    better: str = "accuracy"  # by which the best parameters are chosen, or "loss"

    def draw(self, key: jax.Array, number: int, length: Any, width: int) -> Examples:
        """Draw `number` examples that do not depend on each other, by nothing but the typed `key`.

        `length` is a scalar, perhaps traced, the positions of a sequence at most, and `width` what
        inputs `[number, width, ...]` are padded to. It is that of a run's longest sequences, so
        what is drawn should not depend on it: with `shape=(width, number)`, taken from the last
        position on, it does not.
        """
        raise UserError(f"{type(self).__name__}: a task has draw(key, number, length, width)")

    def draw_set(self, key: jax.Array, units: int, length: Any, width: int) -> Examples:
        """Draw a training, development or test set of `units * examples` examples."""
        return self.draw(key, units * self.examples, length, width)

    def draw_test(self, key: jax.Array, units: int, length: Any, width: int) -> Examples:
        """Draw a development or test set, where one is not drawn as a training set is."""
        return self.draw_set(key, units, length, width)

    def check_length(self, length: int) -> None:
        """Raise `UserError` for a length that this task has not, although it is long enough."""

    def loss(self, outputs: jax.Array, targets: Array) -> jax.Array:
        """Cross-entropy, `[..., outputs]` and `[...]` -> `[...]`."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)

    def correct(self, outputs: jax.Array, targets: Array) -> jax.Array:
        """Whether the likeliest class is right, `[..., outputs]` and `[...]` -> `[...]`."""
        return jnp.argmax(outputs, axis=-1) == targets

    def counts(self, targets: Array, weights: Array | None) -> Any:
        """Which answers accuracy is over, booleans like the targets: those with a weight."""
        return np.ones(targets.shape, bool) if weights is None else weights > 0

    def right_answer(self, tokens: np.ndarray) -> int | None:
        """The right answer to `tokens [time]` that a user typed; None if there is no telling."""
        return None

    def probe_targets(self, examples: Examples) -> dict[str, Array]:
        """What may be looked for in a network's states: whole numbers `[...]` by name."""
        return {"target": examples.targets}


def draw_set(
    task: Task, key: jax.Array, which: int, units: int, length: Any, width: int
) -> Examples:
    """Draw the training (`which` 0), development (1) or test set (2) by the key of the data."""
    draw = task.draw_set if which == 0 else task.draw_test
    return blanked(task, draw(jax.random.split(key, SETS)[which], units, length, width), length)


def draw_fresh(
    task: Task, key: jax.Array, step: jax.Array, number: int, length: Any, width: int
) -> Examples:
    """Draw the examples of a training step; `key` is that of the data."""
    # `split` gives the keys 0, 1 and 2 of `fold_in`, with which the sets of a run are drawn.
    drawn = task.draw(jax.random.fold_in(key, SETS + step), number, length, width)
    return blanked(task, drawn, length)


def blanked(task: Task, examples: Examples, length: Any) -> Examples:
    """Examples of a length with nothing in their padding, whatever a task has drawn there."""
    inputs, targets, lengths, weights = examples
    own = length if lengths is None else jnp.asarray(lengths)[:, None]
    mask, tokens = jnp.atleast_2d(mask_of(own, inputs.shape[1])), isinstance(task.inputs, Tokens)
    inputs = blank_tokens(inputs, mask) if tokens else jnp.where(mask[..., None], inputs, 0)
    if task.answers is None:  # nothing is asked in padding
        weights = jnp.where(mask, jnp.ones(targets.shape) if weights is None else weights, 0.0)
        targets = jnp.where(mask, targets, 0)
    return Examples(inputs, targets, lengths, weights)


def blank_tokens(tokens: Array, mask: jax.Array) -> jax.Array:
    """Tokens `[batch, time]` with `PADDING` where a mask, so or `[1, time]`, is False."""
    signed = jnp.issubdtype(tokens.dtype, jnp.signedinteger)
    return jnp.where(mask, tokens if signed else jnp.asarray(tokens, jnp.int32), PADDING)


def place_of(length: Any, width: int) -> jax.Array:
    """The position `[width]` in each column of left-padded sequences; negative in padding.

    With lengths `[example, 1]` it is `[example, width]`.
    """
    columns = jnp.arange(width).reshape((1,) * (jnp.ndim(length) - 1) + (width,))
    return columns - (width - length)


def mask_of(length: Any, width: int) -> jax.Array:
    """Where sequences of one length, padded to a width, have begun: booleans `[width]`."""
    return place_of(length, width) >= 0


def overlap(train: Examples, test: Examples) -> jax.Array:
    """How many test sequences also occur in the training set (scalar int)."""
    # By 64 bits of each sequence: in an eighth of the time that comparing all of both takes.
    width = math.prod(test.inputs.shape[1:])
    odd = np.random.default_rng(0).integers(2**31, size=(width, 2), dtype=np.uint32) * 2 + 1
    flat = [jnp.asarray(examples.inputs).reshape(-1, width) for examples in (train, test)]
    whole = jnp.issubdtype(flat[0].dtype, jnp.integer)
    flat = [one.astype(jnp.int32 if whole else jnp.float32).view(jnp.uint32) for one in flat]
    seen, asked = ((one ^ (one >> 16)) @ jnp.asarray(odd) for one in flat)
    return jnp.sum(jnp.any(jnp.all(asked[:, None] == seen[None], axis=-1), axis=1))


def check_length(task: Task, length: int) -> None:
    """Raise `UserError` for a length at which a task is not defined."""
    if length < (least := task.shortest):
        raise UserError(f"a sequence has at least {least} positions here, got length {length}")
    task.check_length(length)


def facts_of(task: Task) -> Facts:
    """What those who show results need to know of a task."""
    return Facts(
        question=task.question,
        chance=float(1 / task.outputs if task.chance is None else task.chance),
        chance_loss=float(math.log(task.outputs) if task.chance_loss is None else task.chance_loss),
        test_examples=int(task.examples),
        better=task.better,
        answers=None if task.answers is None else int(task.answers),
    )
