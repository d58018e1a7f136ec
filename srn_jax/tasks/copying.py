"""The copying problem: ten symbols must be said again after a delay."""

import jax
import jax.numpy as jnp

from srn_jax.tasks.task import Examples, Task, Tokens, place_of

SYMBOLS, COPIED = 8, 10
BLANK, MARK = SYMBOLS, SYMBOLS + 1


class Copying(Task):
    """Ten symbols, T - 1 blanks, a mark, and ten blanks at which the symbols are the answers.

    Length 24, so T = 4, symbols a..h (`_` is blank, `?` the mark); every position answers:

        c a f b b e h a d g _ _ _ ? _ _ _ _ _ _ _ _ _ _
        _ _ _ _ _ _ _ _ _ _ _ _ _ _ c a f b b e h a d g

    Accuracy is over the last ten answers alone, its chance 1/8. Blanks until the mark and then any
    symbol have a loss of 10 ln 8 / (T + 20). Sources: Hochreiter & Schmidhuber (1997), Arjovsky et
    al. (2016).
    """

    inputs = Tokens(SYMBOLS + 2)
    outputs = SYMBOLS + 1
    answers = None
    examples = 1000
    shortest = 2 * COPIED + 1
    chance = 1 / SYMBOLS
    question = f"the first {COPIED} symbols, in order, after the mark"

    def draw(self, key, number, length, width):
        """Symbols drawn at random; the rest is given by the length."""
        return of_lengths(key, jnp.full(number, length), width)

    def counts(self, targets, weights):
        """The last ten, whose answers are symbols."""
        return super().counts(targets, weights) & (targets != BLANK)

    def probe_targets(self, examples):
        """Each symbol."""
        last = examples.targets[..., -COPIED:]
        return {f"symbol {n + 1}": last[..., n] for n in range(COPIED)}


class VariableCopying(Copying):
    """The same with T uniform on 1..length - 20 for each sequence (Henaff et al., 2016)."""

    def draw(self, key, number, length, width):
        """Lengths and symbols drawn at random."""
        key, length_key = jax.random.split(key)
        lengths = jax.random.randint(length_key, (number,), self.shortest, length + 1)
        return of_lengths(key, lengths, width)._replace(lengths=lengths)


def of_lengths(key: jax.Array, lengths: jax.Array, width: int) -> Examples:
    """Examples of `lengths [example]`, padded to a width."""
    symbols = jax.random.randint(key, (len(lengths), COPIED), 0, SYMBOLS)
    place = place_of(lengths[:, None], width)
    answer = place - lengths[:, None] + COPIED  # which symbol is asked, negative before

    def symbol(number):
        return jnp.take_along_axis(symbols, jnp.clip(number, 0, COPIED - 1), axis=1)

    inputs = jnp.where(place < COPIED, symbol(place), BLANK)
    inputs = jnp.where(answer == -1, MARK, inputs)
    targets = jnp.where(answer >= 0, symbol(answer), BLANK)
    return Examples(inputs.astype(jnp.int8), targets.astype(jnp.int8))
