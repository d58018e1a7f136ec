"""Parity: whether the number of ones is odd."""

from typing import Any

import jax
import jax.numpy as jnp

from srn_jax.tasks.task import Examples, Task, Tokens, place_of


class Parity(Task):
    """Random bits, and after the last one the number of ones mod 2.

        1 0 1 1 0 0 -> 1

    Chance is 1/2, its loss ln 2. There are 2^length sequences: take a length of 24 or more. Cells
    that only keep a share of their state, such as minGRU and LRU, do not learn it for lengths they
    have not seen (Grazzi et al., 2024).
    """

    inputs = Tokens(2)
    outputs = 2
    examples = 1000
    question = "whether the number of ones is odd"

    def draw(self, key, number, length, width):
        bits, odd = bits_of(key, number, length, width)
        return Examples(bits, odd[:, -1])

    def right_answer(self, tokens):
        return int(sum(tokens)) % 2


class ParityEverywhere(Parity):
    """The same, asked at every position: of the bits so far."""

    answers = None

    def draw(self, key, number, length, width):
        return Examples(*bits_of(key, number, length, width))

    def probe_targets(self, examples):
        return {"parity": examples.targets[..., -1]}


class VariableParity(Parity):
    """Parity with lengths uniform on 1..length; it is tested on those above length // 2.

    Of a test set with lengths 1..40, 21 % were in the training set, of the lengths 21..40 none. As
    Delétang et al. (2023), who train on 1..40.
    """

    def draw(self, key, number, length, width):
        return self.of_lengths(key, number, 1, length, width)

    def draw_test(self, key, units, length, width):
        return self.of_lengths(key, units * self.examples, length // 2 + 1, length, width)

    def of_lengths(self, key, number, shortest, longest, width):
        """Examples whose lengths are uniform on shortest..longest."""
        key, length_key = jax.random.split(key)
        lengths = jax.random.randint(length_key, (number,), shortest, longest + 1)
        bits, odd = bits_of(key, number, lengths[:, None], width)
        return Examples(bits, odd[:, -1], lengths)


def bits_of(key: jax.Array, number: int, length: Any, width: int) -> tuple[jax.Array, jax.Array]:
    """Bits `[number, width]` and the parity of those so far; `length` may be `[number, 1]`."""
    bits = jax.random.bernoulli(key, shape=(width, number))[::-1].T  # from the last one on
    bits = bits & jnp.atleast_2d(place_of(length, width) >= 0)
    return bits.astype(jnp.int8), (jnp.cumsum(bits, axis=1) % 2).astype(jnp.int8)
