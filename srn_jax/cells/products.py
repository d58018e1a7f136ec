"""Gates, states, and products in full precision."""

from typing import Any

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST  # float32 means float32, on TPU (bf16) and GPU (TF32) too
State = Any  # an array [batch, hidden], or a tuple of them, of which the first is h
Gates = tuple[jax.Array, ...]


def gates_of_array(array: jax.Array, gates: int) -> Gates:
    """`[..., gates * D]` as a tuple of `gates` arrays `[..., D]`."""
    return (array,) if gates == 1 else tuple(jnp.split(array, gates, axis=-1))


def recurrent_side(state: State, weight: jax.Array, bias: jax.Array | None, gates: int) -> Gates:
    """H U + c, a tuple of `gates` arrays `[..., D]`."""
    side = product(output(state), weight)
    if bias is not None:
        side = side + bias.reshape((1,) * (side.ndim - 1) + (-1,))
    return gates_of_array(side, gates)


def keep_where(mask: jax.Array | None, new: State, old: State) -> State:
    """States of `new` where the mask `[..., batch]` is True or None, else of `old`."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[..., None], n, o), new, old)


def output(state: State) -> jax.Array:
    """h, the part of a state that the rest of the network sees."""
    return state[0] if isinstance(state, tuple) else state


def add_to_output(state: State, more: jax.Array) -> State:
    """A state with something added to its h."""
    return (state[0] + more, *state[1:]) if isinstance(state, tuple) else state + more


def rows(array: jax.Array) -> jax.Array:
    """`[time, batch, ...]` as `[time * batch, ...]`."""
    return array.reshape(-1, array.shape[-1])


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """`left @ right`, in full precision on every platform."""
    return jnp.matmul(left, right, precision=HIGHEST)


@jax.custom_vjp
def layer(inputs: jax.Array, weight: jax.Array) -> jax.Array:
    """`inputs @ weight`, for layers outside of the loops, with their derivative by hand.

    It is autodiff's but for the transposes: on a CPU, XLA leaves products whose factors stand the
    other way to a library, which takes three times as long for the few rows that we have.
    """
    return product(inputs, weight)


def _layer_backward(residuals, gradient):
    inputs, weight = residuals
    return product(gradient, weight.T), product(rows(inputs).T, rows(gradient))


layer.defvjp(lambda inputs, weight: (product(inputs, weight), (inputs, weight)), _layer_backward)
