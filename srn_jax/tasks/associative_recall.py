"""Multi-query associative recall: which value stood behind a key."""

import math

import jax
import jax.numpy as jnp

from srn_jax.errors import UserError
from srn_jax.tasks.task import Examples, Task, Tokens, place_of

VOCABULARY, PAIRS = 128, 4
HALF = VOCABULARY // 2  # keys are 1..HALF - 1, values from there on, and 0 is blank
POWER = 0.01  # of the gap between a pair and its query


class AssociativeRecall(Task):
    """Pairs of a key and a value first; then each key comes once more and asks for its value.

    Length 16, four pairs, keys a..d with values 1..4 (`_` is blank, `.` is not asked):

        a 1 b 2 c 3 d 4 b _ a _ d _ c _
        . . . . . . . . 2 . 1 . 4 . 3 .

    Queries stand at every other position, slot j with weight (j + 1)^(0.01 - 1), without
    repetition: most stand near the pairs. Who knows which values were shown has a chance of 1/4 and
    a loss of ln 4; any value has a loss of ln 64. MQAR, Arora et al. (2023).
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
        """Keys, values and slots without repetition, each as those with the highest lots."""
        key_key, value_key, slot_key = jax.random.split(key, 3)
        keys = 1 + chosen(jax.random.uniform(key_key, (number, HALF - 1)))
        values = HALF + chosen(jax.random.uniform(value_key, (number, HALF)))
        place = place_of(length, width)[None]
        slot = (place - 2 * PAIRS) // 2
        is_slot = (place >= 2 * PAIRS) & (place % 2 == 0)
        # Lots of Gumbel make the highest ones a draw by weight, one after the other.
        lots = jax.random.gumbel(slot_key, (width, number))[::-1].T  # from the last position on
        lots = lots + (POWER - 1) * jnp.log(jnp.maximum(slot, 0) + 1.0)
        columns = chosen(jnp.where(is_slot, lots, -jnp.inf))

        pairs = jnp.stack([keys, values], axis=-1).reshape(number, 2 * PAIRS)
        shown = pairs[:, jnp.clip(place[0], 0, 2 * PAIRS - 1)]
        here = jnp.arange(number)[:, None], columns
        inputs = jnp.where(place < 2 * PAIRS, shown, 0).at[here].set(keys)
        weights = jnp.zeros(shown.shape).at[here].set(1)
        targets = jnp.zeros_like(shown).at[here].set(values)
        return Examples(inputs.astype(jnp.int16), targets.astype(jnp.int16), weights=weights)

    def probe_targets(self, examples):
        """The first key and its value; sequences `[..., time]` must not be padded."""
        return {"first key": examples.inputs[..., 0], "first value": examples.inputs[..., 1]}


def chosen(lots: jax.Array) -> jax.Array:
    """Where the highest lots are, the highest first: `[example, lots]` -> `[example, PAIRS]`."""
    return jax.lax.top_k(lots, PAIRS)[1]
