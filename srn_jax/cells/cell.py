"""The family of cells: what all of them share, so that a new one is a number and a method.

    class Leaky(Cell):
        gates = 1                                     # columns of W and U, in units of D

        def update(self, x, h, state):                # x, h tuples of `gates` arrays [..., D]
            return 0.9 * state + 0.1 * jnp.tanh(x[0] + h[0])

`x` is the input side (x_t W + b), `h` the recurrent side (h_{t-1} U), and the result the new state.
`update` must be elementwise and must not use the parameters: the loop over time, the mask and the
backward pass are shared (`recurrence`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.initializers import recurrent_initializer, xavier
from srn_jax.cells.recurrence import (
    Derivative,
    How,
    State,
    layer,
    output,
    parts_of,
    plain_recurrence,
    product,
    recurrence,
)
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
    derivative: Derivative | None = None  # of update, where one by hand is faster

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        recurrent_init: str | nnx.Initializer = "xavier",
        forget_bias: jax.Array | float = 0.0,
        chrono: jax.Array | float | None = None,
        W: jax.Array | None = None,
        U: jax.Array | None = None,
        b: jax.Array | None = None,
        c: jax.Array | None = None,
    ):
        """`chrono` is the longest memory, in positions, for which gates are to start; or None."""
        if isinstance(recurrent_init, str):
            recurrent_init = recurrent_initializer(recurrent_init)
        columns = self.gates * hidden_size

        def parameter(name, value, rows, initializer=xavier):
            if value is None:
                keys = [rngs.params() for _ in range(self.gates)]
                shape = (rows, hidden_size)
                blocks = [initializer(key, shape, jnp.float32) for key in keys]
                value = jnp.concatenate(blocks, axis=1)
            return nnx.Param(given(value, (rows, columns), name))

        self.W = parameter("W", W, input_size)
        self.U = parameter("U", U, hidden_size, recurrent_init)
        self.b = parameter("b", b, 1)
        if self.recurrent_bias:
            self.c = parameter("c", c, 1)
        elif c is not None:
            raise ValueError(f"{type(self).__name__} has no recurrent bias c, leave it out")
        if b is None and self.forget_gate is not None:
            start = self.forget_gate * hidden_size
            forget = self.b[...].at[:, start : start + hidden_size].add(forget_bias)
            self.b = nnx.Param(forget)
        if b is None and chrono is not None:
            shape = (1, hidden_size)
            times = jax.random.uniform(rngs.params(), shape, jnp.float32, 1, chrono - 1)
            self.start_chrono(jnp.log(times))

    def update(self, x: tuple[jax.Array, ...], h: tuple[jax.Array, ...], state: Any) -> Any:
        """The new state `[..., D]`, or a tuple of `states` such.

        Args:
            x: input side, a tuple of `gates` arrays `[..., D]`.
            h: recurrent side, likewise.
            state: `[..., D]`, or a tuple of `states` such.
        """
        raise UserError(f"{type(self).__name__}: no method update(x, h, state), a cell has one")

    def gate_values(self, x: Any, h: Any, state: Any) -> dict[str, jax.Array]:
        """The gates by name, each `[..., D]`, for figures; none unless a cell says so."""
        return {}

    def start_chrono(self, log_times: jax.Array) -> None:
        """Set gates' biases for memories of exp(`log_times [1, D]`) positions, where it has such.

        Source: Tallec & Ollivier (2018), whose start is named chrono.
        """

    def set_bias(self, name: str, gate: int, values: jax.Array) -> None:
        """Set the bias `name`, b or c, of a gate to `values [1, D]`."""
        bias, size = getattr(self, name)[...], values.shape[1]
        new = bias.at[:, gate * size : (gate + 1) * size].set(values)
        setattr(self, name, nnx.Param(new))

    def __call__(
        self,
        inputs: jax.Array,
        mask: jax.Array | None = None,
        initial_state: Any = None,
    ) -> jax.Array:
        """Hidden states `[batch, time, D]` of inputs `[batch, time, M]`.

        Args:
            inputs: `[batch, time, M]`.
            mask: `[batch, time]`; where it is False the state stays as it was.
            initial_state: `[batch, D]`, or a tuple of `states` such; zero unless given.
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
        self,
        features: jax.Array,
        input_weight: jax.Array,
        mask: jax.Array | None = None,
        initial_state: State = None,
        how: How | None = None,
        plain: bool = False,
    ) -> State:
        """Time-major states `[time, batch, D]`, where features @ input_weight is the input side.

        Args:
            features: `[time, batch, features]`.
            input_weight: `[features, gates * D]`.
            mask: `[time, batch]` or `[time, 1]`; where it is False the state stays as it was.
            initial_state: as in `__call__`.
            how: it is run; it may say that only the last state is wanted, `[batch, D]`.
            plain: leave its derivative to autodiff, which is slower and knows forward mode.
        """
        if initial_state is None:
            zero = jnp.zeros((features.shape[1], self.U.shape[0]), features.dtype)
            initial_state = zero if self.states == 1 else (zero,) * self.states
        kind = type(self)
        how = (how or How())._replace(parts=parts_of(kind))
        weights = input_weight, self.U[...], self.c[...] if self.recurrent_bias else None
        run = _plain if plain else _recurrence
        return run(kind, how, features, *weights, initial_state, mask)


# Compiled once, also where called eagerly; `How.parts` says when it is another.
_recurrence = jax.jit(recurrence, static_argnums=(0, 1))
_plain = jax.jit(plain_recurrence, static_argnums=(0, 1))


def given(value: jax.Array, shape: tuple[int, ...], name: str) -> jax.Array:
    """`value` as an array; raises `ValueError` unless it has the expected shape."""
    value = jnp.asarray(value)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")
    return value
