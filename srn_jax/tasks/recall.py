"""Symbols must be said again: after a delay, from among blanks, or by their keys."""

import math

import jax
import jax.numpy as jnp

from srn_jax.errors import UserError
from srn_jax.tasks.task import Examples, Task, Tokens, place_of

SYMBOLS, COPIED = 8, 10
BLANK, MARK = SYMBOLS, SYMBOLS + 1
VOCABULARY, PAIRS = 128, 4
HALF = VOCABULARY // 2  # keys are 1..HALF - 1, values from there on, and 0 is blank
POWER = 0.01  # of the gap between a pair and its query


class Copying(Task):
    """Ten symbols, T - 1 blanks, a mark, and ten blanks at which the symbols are the answers.

        c a f b b e h a d g _ _ _ ? _ _ _ _ _ _ _ _ _ _        T = 4, blanks _, the mark ?
        _ _ _ _ _ _ _ _ _ _ _ _ _ _ c a f b b e h a d g        answers, at every position

    Accuracy is over the last ten alone, its chance 1/8. Blanks until the mark and then any symbol
    have a loss of 10 ln 8 / (T + 20). Hochreiter & Schmidhuber (1997), Arjovsky et al. (2016).
    """

    inputs = Tokens(SYMBOLS + 2)
    outputs = SYMBOLS + 1
    answers: int | None = None
    examples = 1000
    shortest = 2 * COPIED + 1
    chance = 1 / SYMBOLS
    chance_loss = math.nan  # it depends on the length
    question = f"the first {COPIED} symbols, in order, after the mark"

    def draw(self, key, number, length, width):
        return self.of_lengths(key, jnp.full(number, length), width)

    def of_lengths(self, key: jax.Array, lengths: jax.Array, width: int) -> Examples:
        """Examples of `lengths [example]`."""
        symbols = jax.random.randint(key, (len(lengths), COPIED), 0, SYMBOLS)
        place = place_of(lengths[:, None], width)
        answer = place - lengths[:, None] + COPIED  # which symbol is asked, negative before

        def symbol(number):
            return jnp.take_along_axis(symbols, jnp.clip(number, 0, COPIED - 1), axis=1)

        inputs = jnp.where(place < COPIED, symbol(place), BLANK)
        inputs = jnp.where(answer == -1, MARK, inputs)
        targets = jnp.where(answer >= 0, symbol(answer), BLANK)
        return Examples(inputs.astype(jnp.int8), targets.astype(jnp.int8))

    def counts(self, targets, weights):
        return super().counts(targets, weights) & (targets != BLANK)

    def probe_targets(self, examples):
        return {f"symbol {n + 1}": examples.targets[..., n - COPIED] for n in range(COPIED)}


class VariableCopying(Copying):
    """The same with T uniform on 1..length - 20 for each sequence (Henaff et al., 2016)."""

    def draw(self, key, number, length, width):
        key, length_key = jax.random.split(key)
        lengths = jax.random.randint(length_key, (number,), self.shortest, length + 1)
        return self.of_lengths(key, lengths, width)._replace(lengths=lengths)


class SelectiveCopying(Copying):
    """Ten symbols at places drawn without repetition, blanks between them, and then ten marks.

        c a _ f b b _ _ e h a _ d g ? ? ? ? ? ? ? ? ? ? -> c a f b b e h a d g

    Chance is 1/8, its loss ln 8. A linear recurrence with fixed coefficients does not select by
    what it reads, so it cannot do it. Jing et al. (2019), Gu & Dao (2023).
    """

    outputs = SYMBOLS
    answers = COPIED
    shortest = 2 * COPIED
    chance_loss = math.log(SYMBOLS)
    question = f"the {COPIED} symbols, in order"

    def draw(self, key, number, length, width):
        symbol_key, place_key = jax.random.split(key)
        symbols = jax.random.randint(symbol_key, (number, COPIED), 0, SYMBOLS)
        place = place_of(length, width)[None]
        lots = jax.random.uniform(place_key, (width, number))[::-1].T  # from the last position on
        lots = jnp.where((place >= 0) & (place < length - COPIED), lots, -1)
        columns = jnp.sort(jax.lax.top_k(lots, COPIED)[1], axis=1)
        inputs = jnp.where(place >= length - COPIED, MARK, BLANK)
        rows = jnp.arange(number)[:, None]
        inputs = jnp.broadcast_to(inputs, (number, width)).at[rows, columns].set(symbols)
        return Examples(inputs.astype(jnp.int8), symbols)


class AssociativeRecall(Task):
    """Pairs of a key and a value first; then each key comes once more and asks for its value.

        a 1 b 2 c 3 d 4 b _ a _ d _ c _        keys a..d, values 1..4, blanks _
        . . . . . . . . 2 . 1 . 4 . 3 .        answers; . is not asked

    Queries stand at every other position, slot j with weight (j + 1)^(0.01 - 1), without
    repetition. Who knows which values were shown has a chance of 1/4 and a loss of ln 4; any value
    has a loss of ln 64. MQAR, Arora et al. (2023).
    """

    inputs = Tokens(VOCABULARY)
    outputs = VOCABULARY
    answers = None
    examples = 1000
    shortest = 4 * PAIRS
    chance = 1 / PAIRS
    chance_loss = math.log(PAIRS)
    question = "the value that stood behind a key"

    def check_length(self, length: int) -> None:
        """Raise `UserError` for an odd length, or one as large as the vocabulary."""
        if length % 2 or length >= VOCABULARY:
            raise UserError(
                f"a sequence of this task is even and below {VOCABULARY} long, got length {length}"
            )

    def draw(self, key, number, length, width):

        def chosen(lots):  # `[example, lots]` -> `[example, PAIRS]`
            return jax.lax.top_k(lots, PAIRS)[1]

        key_key, value_key, slot_key = jax.random.split(key, 3)
        keys = 1 + chosen(jax.random.uniform(key_key, (number, HALF - 1)))
        values = HALF + chosen(jax.random.uniform(value_key, (number, HALF)))
        place = place_of(length, width)[None]
        slot = (place - 2 * PAIRS) // 2
        is_slot = (place >= 2 * PAIRS) & (place % 2 == 0)
        # Lots of Gumbel make the highest ones a draw by weight, one after the other.
        lots = jax.random.gumbel(slot_key, (width, number))[::-1].T  # from the last position on
        lots = lots + (POWER - 1) * jnp.log(jnp.maximum(slot, 0) + 1.0)
        here = jnp.arange(number)[:, None], chosen(jnp.where(is_slot, lots, -jnp.inf))

        pairs = jnp.stack([keys, values], axis=-1).reshape(number, 2 * PAIRS)
        shown = pairs[:, jnp.clip(place[0], 0, 2 * PAIRS - 1)]
        inputs = jnp.where(place < 2 * PAIRS, shown, 0).at[here].set(keys)
        weights = jnp.zeros(shown.shape).at[here].set(1)
        targets = jnp.zeros_like(shown).at[here].set(values)
        return Examples(inputs.astype(jnp.int16), targets.astype(jnp.int16), weights=weights)

    def probe_targets(self, examples):
        return {"first key": examples.inputs[..., 0], "first value": examples.inputs[..., 1]}
