"""Selective copying: symbols at random places must be said again at the end."""

import jax
import jax.numpy as jnp

from srn_jax.tasks.task import Examples, Task, Tokens, place_of

SYMBOLS, COPIED = 8, 10
BLANK, MARK = SYMBOLS, SYMBOLS + 1


class SelectiveCopying(Task):
    """Ten symbols at places drawn without repetition, blanks between them, and then ten marks.

    Length 24, symbols a..h (`_` is blank, `?` a mark, at which the next symbol is the answer):

        c a _ f b b _ _ e h a _ d g ? ? ? ? ? ? ? ? ? ? -> c a f b b e h a d g

    Chance is 1/8, its loss ln 8. What does not select by what it reads, such as a linear recurrence
    with fixed coefficients, cannot do it. Sources: Jing et al. (2019), Gu & Dao (2023).
    """

    inputs = Tokens(SYMBOLS + 2)
    outputs = SYMBOLS
    answers = COPIED
    examples = 1000
    shortest = 2 * COPIED
    question = f"the {COPIED} symbols, in order"

    def draw(self, key, number, length, width):
        """Of all places before the marks those with the highest lots, whatever the width."""
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

    def probe_targets(self, examples):
        """Each symbol."""
        return {f"symbol {n + 1}": examples.targets[..., n] for n in range(COPIED)}
