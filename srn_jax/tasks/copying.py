"""The copying problem: ten symbols must be said again after a delay."""

import math

import jax
import jax.numpy as jnp

from srn_jax.tasks.task import PADDING, Examples, Task, Tokens, place_of

SYMBOLS, COPIED = 8, 10
BLANK, MARK = SYMBOLS, SYMBOLS + 1
ROUND = 2 * COPIED  # positions of a sequence apart from the delay


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
    shortest = ROUND + 1
    chance = 1 / SYMBOLS
    question = f"the first {COPIED} symbols, in order, after the mark"

    def draw(self, key, number, length, width):
        """Symbols drawn at random; the rest is given by the length."""
        return of_lengths(key, jnp.full(number, length), width)

    def counts(self, targets, weights):
        """The last ten, whose answers are symbols."""
        return (weights > 0) & (targets != BLANK)

    def ignorant_loss(self, length: int) -> float:
        """The loss of who forgets the symbols, which depends on the length."""
        return COPIED * math.log(SYMBOLS) / length

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

    def ignorant_loss(self, length: int) -> float:
        """Of all positions of a batch, whose sequences are (21 + length) / 2 long in the mean."""
        return super().ignorant_loss((self.shortest + length) / 2)


def of_lengths(key: jax.Array, lengths: jax.Array, width: int) -> Examples:
    """Examples of `lengths [example]`, padded to a width."""
    symbols = jax.random.randint(key, (len(lengths), COPIED), 0, SYMBOLS)
    place = place_of(0, width)[None] + lengths[:, None]  # [example, width]
    to_end = jnp.arange(width)[None] - width + jnp.zeros_like(place)  # -1 at the last position

    def shown(place):
        return jnp.take_along_axis(symbols, jnp.clip(place, 0, COPIED - 1), axis=1)

    inputs = jnp.where(place < COPIED, shown(place), BLANK)
    inputs = jnp.where(to_end == -COPIED - 1, MARK, inputs)
    targets = jnp.where(to_end >= -COPIED, shown(to_end + COPIED), BLANK)
    inputs = jnp.where(place < 0, PADDING, inputs)
    weights = (place >= 0).astype(jnp.float32)
    return Examples(inputs.astype(jnp.int8), targets.astype(jnp.int8), weights=weights)
