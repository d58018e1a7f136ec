"""The textbook's new edition (nndl/nndl-practice, 2026, chapter 6): its tasks and its settings.

The data are drawn as written there, but from JAX keys, for every seed anew, and with a test set.
"""

from typing import Any

import jax
import jax.numpy as jnp

from srn_jax.tasks.sums import DigitSum
from srn_jax.tasks.task import Examples, Task, Tokens, place_of

SETTINGS: dict[str, Any] = {  # of part one, as `srn_jax.train` takes them
    **{"task": "digit-sum-2026", "cell": ["srn-2026", "lstm-2026"], "lengths": (10, 20)},
    **{"hidden_size": 64, "embedding_init": "normal", "learning_rate": 0.003, "batch_size": 128},
    **{"shuffle": True, "epochs": 20, "multiplicity": 6, "clip_norm": 1.0, "clip": "global"},
    "eval_interval": 24,  # the steps of an epoch, of 6 times 500 examples
}


class DigitSum2026(DigitSum):
    """The first two digits must be added; all digits are random, and so is which pairs there are.

    3 8 0 4 9 -> 11
    """

    examples = 500
    draw_set = Task.draw_set

    def draw(self, key, number, length, width):
        digits = tokens_of(key, number, width, 0, 10)
        place = place_of(length, width)[None]
        label = jnp.sum(jnp.where((place == 0) | (place == 1), digits, 0), axis=1)
        return Examples(digits.astype(jnp.int8), label)


class FirstTokens2026(Task):
    """Three tokens 1-3 (label 1) or 4-6 (label 0) first, then tokens 7-24, which say nothing.

        5 4 6 19 7 24 8 11 -> 0

    Lengths are uniform on length - 10..length. The text says that one direction stays at 50 % and
    two reach 100 %: length 45, `lstm-2026`, batches of 64, 8 epochs, multiplicity 4, the rest as in
    `SETTINGS`.
    """

    inputs = Tokens(25)
    outputs = 2
    examples = 500
    shortest = 13
    question = "of which kind the first three tokens are"

    def draw(self, key, number, length, width):
        length_key, label_key, first_key, other_key = jax.random.split(key, 4)
        lengths = jax.random.randint(length_key, (number,), length - 10, length + 1)
        label = jax.random.randint(label_key, (number,), 0, 2)
        kind = jnp.where(label == 1, 0, 3)[:, None]
        first = kind + jax.random.randint(first_key, (number, 3), 1, 4)
        place = place_of(lengths[:, None], width)
        early = jnp.take_along_axis(first, jnp.clip(place, 0, 2), axis=1)
        tokens = jnp.where(place < 3, early, tokens_of(other_key, number, width, 7, 25))
        return Examples(tokens.astype(jnp.int8), label, lengths)


def tokens_of(key: jax.Array, number: int, width: int, low: int, high: int) -> jax.Array:
    """Random tokens low..high - 1, `[number, width]`, drawn from the last position on."""
    return jax.random.randint(key, (width, number), low, high)[::-1].T
