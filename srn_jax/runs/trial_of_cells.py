"""A cell of the user's own tried before anyone trains: whether it is what it says."""

from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srn_jax.cells import Cell, cell_class
from srn_jax.cells.cell import FASTER, says
from srn_jax.config import ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.own_files import path_of
from srn_jax.tasks.task import PADDING, Task, Tokens
from srn_jax.training.model import new_network


def check_cell(config: ExperimentConfig) -> None:
    """Raise `UserError` for no cell, or one whose new state has another shape than the old."""
    cell = cell_class(config.cell)
    if not issubclass(cell, nnx.Module):
        raise UserError(f"{config.cell}: no srn_jax.Cell and no other flax.nnx.Module")
    if not issubclass(cell, Cell):
        return
    for key in ("gates", "states"):
        if not isinstance(value := getattr(cell, key), Integral) or value < 1:
            raise UserError(f"{config.cell}: {key} must be a whole number from 1, got {value!r}")
    if cell.forget_gate not in (None, *range(cell.gates)):
        raise UserError(f"{config.cell}: forget_gate must be a gate's number, from 0, or None")
    side = jax.ShapeDtypeStruct((2, cell.gates * config.hidden_size), jnp.float32)
    one = jax.ShapeDtypeStruct((2, config.hidden_size), jnp.float32)
    state = one if cell.states == 1 else (one,) * cell.states
    new = jax.eval_shape(cell.plain_step, side, side, state)
    found, wanted = (jax.tree.map(jnp.shape, s) for s in (new, state))
    if found != wanted:
        raise UserError(f"{config.cell}: update gives a state {found}, expected {wanted}")
    for method in ("__call__", "project", "scan"):
        if says(cell, method):
            raise UserError(
                f"{config.cell}: {method} is the same for all cells of the family and not asked of "
                "yours: say update alone, or make it another flax.nnx.Module than srn_jax.Cell"
            )
    if path_of(config.cell) is not None:
        check_faster(config.cell, cell)


def check_faster(name: str, cell: Any) -> None:
    """Raise `UserError` where what a cell says to be faster is not what its `update` says."""
    said = sorted(name for name in FASTER if says(cell, name))
    if not said:
        return
    if cell.additive and "derivative" not in said:
        raise UserError(f"{name}: additive is for a cell with a derivative of its own")
    random = np.random.default_rng(0)
    x, h = jnp.float32(random.normal(size=(2, 2, cell.gates * 4)))
    parts = jnp.float32(random.normal(size=(2, cell.states, 2, 4)))
    state, gradient = (tuple(each) if cell.states > 1 else each[0] for each in parts)

    @jax.jit
    def differences(x, h, state, gradient):
        new, kept = cell.step(x, h, state)
        kept = new if cell.keeps_state else x if kept is None else kept
        dx, dh, before = cell.derivative(kept, None if cell.additive else h, state, gradient)
        wanted, back = jax.vjp(cell.plain_step, x, h, state)
        sides = wanted, back(gradient)
        ours = new, (dx, dx if cell.additive else dh, before)
        return jax.tree.map(lambda a, b: jnp.abs(a - b).max(), ours, sides)

    if max(jax.tree.leaves(differences(x, h, state, gradient))) > 1e-3:
        raise UserError(
            f"{name}: {', '.join(said)} and update do not say the same, leave out all but update"
        )
    x, zero = jax.tree.map(jnp.zeros_like, (x, state))
    new = cell.plain_step(x, h if cell.recurrent_bias else x, zero)
    if cell.rests and any(jnp.any(part) for part in jax.tree.leaves(new)):
        raise UserError(f"{name}: rests, but without input a state of zero does not stay zero")


def check_module(task: Task, config: ExperimentConfig, length: int, padded: bool) -> None:
    """Raise `UserError` for a module of the user's that is no function of parameters and sequence.

    Nothing but parameters is kept from one step to the next, so dropout would be the same always.
    Shorter sequences are padded on the left, so where states depend on padding, a network would be
    tested as another one.
    """
    cell = cell_class(config.cell)
    if path_of(config.cell) is None or issubclass(cell, Cell):
        return
    if isinstance(task.inputs, Tokens):
        vocabulary, filler = task.inputs.vocabulary, PADDING
        inputs = jnp.arange(1, length + 1)[None] % vocabulary  # padding is embedded as token 0
        others = (inputs + 1) % vocabulary
    else:
        filler, shape = 0, (1, length, task.inputs.size)
        inputs = jnp.sin(jnp.arange(1.0, np.prod(shape) + 1)).reshape(shape)
        others = inputs + 1
    more = [(0, 0), (2, 0), *[(0, 0)] * (inputs.ndim - 2)]
    longer = jnp.pad(inputs, more, constant_values=filler)
    begun = jnp.arange(length + 2)[None] >= 2
    kept = nnx.All(nnx.Not(nnx.Param), nnx.Not(nnx.RngState))

    def values(number):
        return nnx.state(new_network(task, config, jax.random.key(number)), kept)

    def states():
        network = new_network(task, config, jax.random.key(0))
        given: list[Any] = [(inputs,), (inputs,), (jnp.concatenate([inputs, others]),)]
        given += [(longer, begun)] if padded else []
        return [network.states(*arguments)[-1, 0] for arguments in given]

    # As programs: operation by operation, each would be compiled alone. The values of each number
    # by one of its own, since a constructor may draw with NumPy, which a second call would not see.
    one, other = (jax.jit(values, static_argnums=0)(number) for number in range(2))
    if not jax.tree.all(jax.tree.map(partial(np.array_equal, equal_nan=True), one, other)):
        raise UserError(
            f"{config.cell}: draws values that are no nnx.Param, and they would be the same for "
            "every seed: make them an nnx.Param, or say them without chance"
        )
    last, again, beside, *behind = jax.jit(states)()
    if not close(last, again):
        raise UserError(
            f"{config.cell}: called twice it gives different states: take out what is random or "
            "counts its calls (dropout), since parameters alone are kept between steps"
        )
    if not close(last, beside):
        raise UserError(
            f"{config.cell}: the other sequences of a batch change the states of one (BatchNorm)"
        )
    if not all(close(last, state) for state in behind):
        raise UserError(
            f"{config.cell}: padding behind a sequence changes its states, see where mask is False"
        )


def close(one: Any, other: Any) -> bool:
    """Whether states differ by rounding at most."""
    return np.allclose(one, other, atol=1e-4, equal_nan=True)
