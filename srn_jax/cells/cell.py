"""The family of cells: what all of them share, so that a new one is a number and a method.

    class Leaky(Cell):
        gates = 1                                     # columns of W and U, in units of D

        def update(self, x, h, state):                # x, h [..., gates, D]; state [..., D]
            return 0.9 * state + 0.1 * jnp.tanh(x + h)[..., 0, :]

`x` is the input side (x_t W + b), `h` the recurrent side (h_{t-1} U), and the result the new state.
`update` must be elementwise and must not use the parameters: the loop over time, the mask and the
backward pass are shared (`recurrence`), and they call it on the class.
"""

from inspect import getattr_static
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.initializers import recurrent_initializer, xavier
from srn_jax.cells.loops import State, layer, output
from srn_jax.cells.recurrence import ALL_STATES, Plan, recurrence
from srn_jax.errors import UserError

# What a cell may say beside `update`, to be faster; it is true of that `update` alone.
FASTER = {"step", "derivative", "additive", "keeps_state", "rests"}


class Cell(nnx.Module):
    """A recurrent cell whose new state is an elementwise function of gates and state.

    Parameters, drawn for each gate (Xavier uniform, U by `recurrent_init`): W `[M, gates * D]`,
    U `[D, gates * D]`, b `[1, gates * D]`, and c `[1, gates * D]` with `recurrent_bias`.
    """

    gates: int = 1
    states: int = 1  # parts of the state; the first is h, which the others see
    recurrent_bias: bool = False  # whether the recurrent side has a bias c of its own
    forget_gate: int | None = None  # the gate to whose bias `forget_bias` is added

    # For cells that bring a `step` and a `derivative` of their own:
    additive: bool = False  # x and h enter as their sum, so both have one gradient
    keeps_state: bool = False  # what `step` keeps is the new state itself
    rests: bool = False  # without input a state of zero stays zero: padding needs no mask

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

        def place(name: str) -> int:
            return next(n for n, kind in enumerate(cls.__mro__) if name in vars(kind))

        # What an older class says beside its own `update` is not true of a newer one.
        newest = place("update")
        if newest < min(place("step"), place("derivative")):
            for name in (*FASTER, "gate_values"):
                if newest < place(name):
                    setattr(cls, name, vars(Cell)[name])

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        recurrent_init: str | nnx.Initializer = "xavier",
        forget_bias: jax.Array | float = 0.0,
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

    def update(self, x: jax.Array, h: jax.Array, state: Any) -> Any:
        """The new state `[..., D]`, or a tuple of `states` such.

        Args:
            x: input side, `[..., gates, D]`.
            h: recurrent side, `[..., gates, D]`.
            state: `[..., D]`, or a tuple of `states` such.
        """
        raise UserError(f"{type(self).__name__}: no method update(x, h, state), a cell has one")

    @classmethod
    def plain_step(cls, x: jax.Array, h: jax.Array, state: Any) -> Any:
        """The new state by `update`, of sides `[..., gates * D]`."""
        x, h = (side.reshape(*side.shape[:-1], cls.gates, -1) for side in (x, h))
        return object.__new__(cls).update(x, h, state)  # an instance for `super().update`

    # A cell may say these two itself, to be faster. Their sides are flat, `[..., gates * D]`:
    # a loop with a reshape in it does not become one kernel on a CPU and takes twice as long.

    @classmethod
    def step(cls, x: jax.Array, h: jax.Array, state: Any) -> tuple[Any, jax.Array | None]:
        """The new state, and what `derivative` wants to know, as large as x; None stands for x."""
        return cls.plain_step(x, h, state), None

    @classmethod
    def derivative(
        cls, kept: jax.Array, h: jax.Array | None, before: Any, gradient: Any
    ) -> tuple[jax.Array, jax.Array, Any]:
        """The gradients with respect to x, h and the state before, by autodiff of `update`.

        Args:
            kept: what `step` kept, `[..., gates * D]`.
            h: recurrent side, `[..., gates * D]`; None for an additive cell.
            before: the state before.
            gradient: of the new state.
        """
        return jax.vjp(cls.plain_step, kept, h, before)[1](gradient)

    @classmethod
    def gate_values(cls, x: jax.Array, h: jax.Array, state: Any) -> dict[str, jax.Array]:
        """The gates by name, each `[..., D]`, for figures; none unless a cell says so."""
        return {}

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
        inputs = jnp.asarray(inputs, self.W[...].dtype)
        ones = jnp.ones((*inputs.shape[:-1], 1), inputs.dtype)
        features = jnp.swapaxes(jnp.concatenate([inputs, ones], axis=-1), 0, 1)
        weight = jnp.concatenate([self.W[...], self.b[...]])
        mask = None if mask is None else jnp.asarray(mask).T
        return jnp.swapaxes(output(self.scan(features, weight, mask, initial_state)), 0, 1)

    def project(self, inputs: jax.Array) -> jax.Array:
        """The input side of the recurrence, inputs @ W + b: `[rows, M]` -> `[rows, gates * D]`."""
        return layer(inputs, self.W[...]) + self.b[...]

    def scan(
        self,
        features: jax.Array,
        input_weight: jax.Array,
        mask: jax.Array | None = None,
        initial_state: State = None,
        plan: Plan = ALL_STATES,
    ) -> State:
        """Time-major states `[time, batch, D]`, where features @ input_weight is the input side.

        Args:
            features: `[time, batch, features]`.
            input_weight: `[features, gates * D]`.
            mask: `[time, batch]` or `[time, 1]`; where it is False the state stays as it was.
            initial_state: as in `__call__`.
            plan: how it is run; it may say that only the last state is wanted, `[batch, D]`.
        """
        if initial_state is None:
            zero = jnp.zeros((features.shape[1], self.U.shape[0]), features.dtype)
            initial_state = zero if self.states == 1 else (zero,) * self.states
        c = self.c[...] if self.recurrent_bias else None
        weights = input_weight, self.U[...], c
        return _recurrence(type(self), features, *weights, initial_state, mask, plan)


_recurrence = jax.jit(recurrence, static_argnums=(0, 7))  # compiled once, also where called eagerly


def given(value: jax.Array, shape: tuple[int, ...], name: str) -> jax.Array:
    """`value` as an array; raises `ValueError` unless it has the expected shape."""
    value = jnp.asarray(value)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")
    return value


def says(cell: type[Cell], name: str) -> bool:
    """Whether a class of cells has an attribute of its own in the place of `Cell`'s."""
    return getattr_static(cell, name) is not getattr_static(Cell, name)
