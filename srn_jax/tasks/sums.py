"""Sums: of the first two digits, the textbook's task, and of two marked numbers."""

import jax
import jax.numpy as jnp

from srn_jax.config import DataFolder
from srn_jax.tasks.task import Examples, Task, Tokens, Vectors, place_of

NUM_DIGITS = 10
NUM_PAIRS = NUM_DIGITS**2
TOLERANCE = 0.04  # of Adding: an answer this close is right, as in Hochreiter & Schmidhuber (1997)


class DigitSum(Task):
    """The first two digits must be added; all others are 0 but for one, drawn anywhere.

        0 0 0 0 3 -> 0
        0 0 9 0 0 -> 0
        0 1 0 4 0 -> 1

    A set has as many examples of each of the 100 pairs, in order. Source: NNDL section 6.1.
    """

    inputs = Tokens(NUM_DIGITS)
    outputs = 2 * (NUM_DIGITS - 1) + 1
    examples = NUM_PAIRS
    shortest = 3
    chance = 0.10  # always answering 9: 10 of the 100 pairs have that sum, not 1 in 19
    question = "the sum of the first two digits"

    def draw(self, key, number, length, width):
        pair_key, key = jax.random.split(key)
        pair = jax.random.randint(pair_key, (number,), 0, NUM_PAIRS)
        return self.of_pairs(key, pair, length, width)

    def draw_set(self, key, units, length, width):
        return self.of_pairs(key, jnp.repeat(jnp.arange(NUM_PAIRS), units), length, width)

    def of_pairs(self, key: jax.Array, pair: jax.Array, length, width: int) -> Examples:
        """An example for each of `pair [number]`, in 0..99: the first digit, then the second."""
        randint = jax.vmap(lambda key, *bounds: jax.random.randint(key, pair.shape, *bounds))
        low, high = jnp.array([2, 0]), jnp.stack([length, NUM_DIGITS])
        position, digit = randint(jax.random.split(key), low, high)
        first, second = pair // NUM_DIGITS, pair % NUM_DIGITS
        place = place_of(length, width)[None, :]
        digits = jnp.where(place == position[:, None], digit[:, None], 0)
        digits = jnp.where(place == 0, first[:, None], digits)
        digits = jnp.where(place == 1, second[:, None], digits)
        return Examples(digits.astype(jnp.int8), first + second)

    def right_answer(self, tokens):
        return int(tokens[0]) + int(tokens[1]) if len(tokens) >= 2 else None

    def probe_targets(self, examples):
        first, second = examples.inputs[..., 0], examples.inputs[..., 1]
        return {"first digit": first, "second digit": second, "sum": examples.targets}


class FromFiles(Task):
    """Sequences and labels out of a folder of files; nothing is drawn."""

    question = "the label of a sequence"

    def __init__(self, folder: DataFolder, examples: int = NUM_PAIRS):
        self.inputs, self.outputs = Tokens(folder.vocabulary), folder.classes
        self.chance, self.examples = folder.chance, examples


class Adding(Task):
    """Two channels: a value uniform on 0..1, and a mark that is 1 at one place of each half.

        value  .31  .77  .05  .62  .48  .90
        mark    0    1    0    0    1    0   -> 1.25

    The loss is the squared error; always answering 1 has one of 1/6. Le et al. (2015).
    """

    inputs = Vectors(2)
    outputs = 1
    examples = 1000
    shortest = 2
    chance = 1 - (1 - TOLERANCE) ** 2  # how often the sum of two uniform numbers is that close to 1
    chance_loss = 1 / 6
    better = "loss"
    question = f"the sum of the two marked numbers, within {TOLERANCE}"

    def draw(self, key, number, length, width):
        value_key, first_key, second_key = jax.random.split(key, 3)
        place = place_of(length, width)  # each has a key: its value does not depend on the width
        keys = jax.vmap(lambda t: jax.random.fold_in(value_key, t))(place)
        values = jax.vmap(lambda k: jax.random.uniform(k, (number,)))(keys).T
        half = length // 2
        first = jax.random.randint(first_key, (number, 1), 0, half)
        second = jax.random.randint(second_key, (number, 1), half, length)
        marks = (place[None] == first) | (place[None] == second)
        inputs = jnp.stack([values, marks.astype(values.dtype)], axis=-1)
        return Examples(inputs, jnp.sum(values * marks, axis=1))

    def loss(self, outputs, targets):
        return (outputs[..., 0] - targets) ** 2

    def correct(self, outputs, targets):
        return jnp.abs(outputs[..., 0] - targets) < TOLERANCE

    def probe_targets(self, examples):
        return {"sum in tenths": jnp.floor(examples.targets * 10).astype(jnp.int32)}
