"""DigitSum, the textbook's task: the sum of the first two digits, asked after the last."""

import math

import jax
import jax.numpy as jnp

from srn_jax.config import DataFolder
from srn_jax.tasks.task import PADDING, Examples, Task, Tokens, place_of

NUM_DIGITS = 10
NUM_PAIRS = NUM_DIGITS**2


class DigitSum(Task):
    """The first two digits must be added; all others are 0 but for one, drawn anywhere.

    Length 5, two examples for each pair, width 6 (`.` is padding):

        . 0 0 0 0 3 -> 0
        . 0 0 9 0 0 -> 0
        . 0 1 0 4 0 -> 1

    A set has as many examples of each of the 100 pairs, in order. Source: NNDL section 6.1.
    """

    inputs = Tokens(NUM_DIGITS)
    outputs = 2 * (NUM_DIGITS - 1) + 1
    examples = NUM_PAIRS
    shortest = 3
    chance = 0.10  # always answering 9: 10 of the 100 pairs have that sum, not 1 in 19
    question = "the sum of the first two digits"

    def draw(self, key, number, length, width):
        """Examples of pairs that are drawn at random."""
        pair_key, key = jax.random.split(key)
        return self.of_pairs(
            key, jax.random.randint(pair_key, (number,), 0, NUM_PAIRS), length, width
        )

    def draw_set(self, key, units, length, width):
        """`units` examples for each pair of digits, in order."""
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
        digits = jnp.where(place < 0, PADDING, digits)
        return Examples(digits.astype(jnp.int8), first + second)

    def right_answer(self, tokens):
        """The sum of the first two."""
        return int(tokens[0]) + int(tokens[1]) if len(tokens) >= 2 else None

    def probe_targets(self, examples):
        """Both digits and their sum; digits `[..., time]` must not be padded."""
        inputs = examples.inputs
        first, second = inputs[..., 0], inputs[..., 1]
        return {"first digit": first, "second digit": second, "sum": examples.targets}


class FromFiles(Task):
    """Sequences and labels out of a folder of files; nothing is drawn."""

    shortest = 1
    question = "the label of a sequence"

    def __init__(self, folder: DataFolder, examples: int = NUM_PAIRS):
        self.inputs = Tokens(folder.vocabulary)
        self.outputs = folder.classes
        self.chance = folder.chance
        self.chance_loss = math.log(folder.classes)
        self.examples = examples
