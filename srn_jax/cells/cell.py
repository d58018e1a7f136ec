"""The family of cells: what all of them share, so that a new one is a number and a method.

    class Leaky(Cell):
        gates = 1                                     # columns of W and U, in units of D

        def update(self, x, h, state):                # x, h tuples of `gates` arrays [..., D]
            return 0.9 * state + 0.1 * jnp.tanh(x[0] + h[0])

`x` is the input side (x_t W + b), `h` the recurrent side (h_{t-1} U), and the result the new state.
`update` must be elementwise and must not use the parameters: the loop over time is shared.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srn_jax.cells.initializers import recurrent_initializer, with_chrono, xavier
from srn_jax.cells.products import Gates, State, layer, output, product
from srn_jax.cells.recurrence import Derivative, How, parts_of, plain_recurrence, recurrence
from srn_jax.errors import UserError


class Cell(nnx.Module):
    """A recurrent cell whose new state is an elementwise function of gates and state.

    Parameters, drawn for each gate (Xavier uniform, U by `recurrent_init`): W `[M, gates * D]`,
    U `[D, gates * D]`, b `[1, gates * D]`, and c `[1, gates * D]` with `recurrent_bias`.
    """

    gates: int = 1
    states: int = 1  # parts of the state; the first is h, which the others see
    recurrent_bias: bool = False  # whether the recurrent side has a bias c of its own
    forget_gate: int | None = None  # the gate to whose bias `forget_bias` is added
    chrono_gates: tuple[tuple[int, int], ...] = ()  # with the sign that ln u has in its bias
    derivative: Derivative | None = None  # of update, where one by hand is faster

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        recurrent_init: str | nnx.Initializer = "xavier",
        forget_bias: jax.Array | float = 0.0,
        chrono: jax.Array | float | None = None,  # the longest memory for which gates are to start
        W: jax.Array | None = None,
        U: jax.Array | None = None,
        b: jax.Array | None = None,
        c: jax.Array | None = None,
    ):
        if isinstance(recurrent_init, str):
            recurrent_init = recurrent_initializer(recurrent_init)
        columns = self.gates * hidden_size

        def parameter(name, value, rows, initializer=xavier):
            if value is None:
                keys = [rngs.params() for _ in range(self.gates)]
                blocks = [initializer(key, (rows, hidden_size), jnp.float32) for key in keys]
                value = jnp.concatenate(blocks, axis=1)
            if (found := jnp.shape(value)) != (wanted := (rows, columns)):
                raise ValueError(f"{name} has shape {found}, expected {wanted}")
            return nnx.Param(jnp.asarray(value))

        self.W = parameter("W", W, input_size)
        self.U = parameter("U", U, hidden_size, recurrent_init)
        self.b = parameter("b", b, 1)
        if self.recurrent_bias:
            self.c = parameter("c", c, 1)
        elif c is not None:
            raise ValueError(f"{type(self).__name__} has no recurrent bias c, leave it out")
        gates = np.arange(columns)[None] // hidden_size  # [1, columns]
        if b is None and self.forget_gate is not None:
            added = jnp.where(gates == self.forget_gate, forget_bias, 0)
            self.b = nnx.Param(self.b[...] + added)
        if b is None and chrono is not None and self.chrono_gates:
            self.b = with_chrono(self, chrono, rngs)
            if self.recurrent_bias:
                kept = ~np.isin(gates, [gate for gate, _ in self.chrono_gates])
                self.c = nnx.Param(jnp.where(kept, self.c[...], 0))

    def update(self, x: Gates, h: Gates, state: State) -> State:
        """The new state `[..., D]`, or a tuple of `states` such, of the old one and both sides."""
        raise UserError(f"{type(self).__name__}: no method update(x, h, state), a cell has one")

    def gate_values(self, x: Any, h: Any, state: Any) -> dict[str, jax.Array]:
        """The gates by name, each `[..., D]`, for figures; none unless a cell says so."""
        return {}

    def __call__(
        self, inputs: jax.Array, mask: jax.Array | None = None, initial_state: State = None
    ) -> jax.Array:
        """Hidden states `[batch, time, D]` of inputs `[batch, time, M]`.

        The state stays where the mask `[batch, time]` is False; at first it is zero unless given.
        """
        inputs = jnp.swapaxes(jnp.asarray(inputs, self.W[...].dtype), 0, 1)
        mask = None if mask is None else jnp.asarray(mask).T
        states = self.scan(*self.sides(inputs), mask, initial_state)
        return jnp.swapaxes(output(states), 0, 1)

    def project(self, inputs: jax.Array, plain: bool = False) -> jax.Array:
        """The input side of the recurrence, inputs @ W + b: `[rows, M]` -> `[rows, gates * D]`."""
        return (product if plain else layer)(inputs, self.W[...]) + self.b[...]

    def sides(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`inputs [..., M]` as `scan` takes them, with a feature that is always 1, and W with b."""
        ones = jnp.ones((*inputs.shape[:-1], 1), inputs.dtype)
        weight = jnp.concatenate([self.W[...], self.b[...]])
        return jnp.concatenate([inputs, ones], axis=-1), weight

    def scan(
        self, features, input_weight, mask=None, initial_state: State = None, how=None, plain=False
    ) -> State:
        """Time-major states `[time, batch, D]`, where features @ input_weight is the input side.

        Arguments are as in `recurrence`; `plain` leaves the derivative to autodiff, which is slower
        and knows forward mode.
        """
        if initial_state is None:
            zero = jnp.zeros((features.shape[1], self.U.shape[0]), features.dtype)
            initial_state = zero if self.states == 1 else (zero,) * self.states
        how = (how or How())._replace(parts=parts_of(type(self)))
        weights = input_weight, self.U[...], self.c[...] if self.recurrent_bias else None
        run = _plain if plain else _recurrence
        return run(type(self), how, features, *weights, initial_state, mask)


# Compiled once, also where called eagerly; `How.parts` says when it is another.
_recurrence = jax.jit(recurrence, static_argnums=(0, 1))
_plain = jax.jit(plain_recurrence, static_argnums=(0, 1))
