"""Recall after a delay: symbols must be said again in order (Arjovsky et al., 2016)."""

import jax
import jax.numpy as jnp

from srn_jax.tasks.task import PADDING, Examples, Task, Tokens, place_of

SYMBOLS = 8
REMEMBERED = 3
BLANK, MARK = SYMBOLS, SYMBOLS + 1


class Recall(Task):
    """Symbols first, blanks, then a mark at each position where one must be said again.

    Length 9, three symbols a..h (`_` is blank, `?` the mark):

        c a f _ _ _ ? ? ? -> c a f

    The copying problem in which every answer is asked for by a mark of its own.
    """

    inputs = Tokens(SYMBOLS + 2)
    outputs = SYMBOLS
    answers = REMEMBERED
    examples = 500
    shortest = 2 * REMEMBERED
    question = f"the first {REMEMBERED} symbols, in order"

    def draw(self, key, number, length, width):
        """Symbols drawn at random; the rest is given by the length."""
        symbols = jax.random.randint(key, (number, REMEMBERED), 0, SYMBOLS)
        place = place_of(length, width)
        shown = jnp.clip(place, 0, REMEMBERED - 1)
        inputs = jnp.where(place < REMEMBERED, symbols[:, shown], BLANK)
        inputs = jnp.where(place >= length - REMEMBERED, MARK, inputs)
        return Examples(jnp.where(place < 0, PADDING, inputs).astype(jnp.int8), symbols)

    def probe_targets(self, examples):
        """Each symbol."""
        return {f"symbol {n + 1}": examples.targets[..., n] for n in range(REMEMBERED)}
