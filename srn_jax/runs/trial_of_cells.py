"""A user's own cell, optimizer or schedule tried before anyone trains: is it what it says?"""

from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srn_jax.cells import Cell, Derivative, cell_class
from srn_jax.cells.recurrence import apply_update
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError, shown
from srn_jax.own_files import describe
from srn_jax.tasks.task import PADDING, Tokens
from srn_jax.training.network import new_network
from srn_jax.training.program import Program

FAMILY = ("__call__", "project", "scan")  # the same for all of its cells


def check_cell(value: Any, size: int) -> None:
    """Raise `UserError` for no cell, or one whose `update` is not what the family asks."""
    name, cell = describe(value), cell_class(value)
    if not issubclass(cell, nnx.Module):
        raise UserError(f"{name}: no srn_jax.Cell and no other flax.nnx.Module")
    if not issubclass(cell, Cell):
        return
    for key in ("gates", "states"):
        if not isinstance(number := getattr(cell, key), Integral) or number < 1:
            raise UserError(f"{name}: {key} must be a whole number from 1, got {shown(number)}")
    if cell.forget_gate not in (None, *range(cell.gates)):
        raise UserError(f"{name}: forget_gate must be a gate's number, from 0, or None")
    one = jax.ShapeDtypeStruct((2, size), jnp.float32)
    sides, state = (one,) * cell.gates, one if cell.states == 1 else (one,) * cell.states
    new = jax.eval_shape(partial(apply_update, cell), sides, sides, state)
    found, wanted = (jax.tree.map(lambda s: (jnp.shape(s), s.dtype.name), s) for s in (new, state))
    if found != wanted:
        raise UserError(f"{name}: update gives a state {found}, expected {wanted}")
    for method in FAMILY:
        if getattr(cell, method) is not getattr(Cell, method):
            raise UserError(
                f"{name}: {method} is the same for all cells of the family and not asked of "
                "yours: say update alone, or make it another flax.nnx.Module than srn_jax.Cell"
            )
    check_update(name, cell)


def check_update(name: str, cell: Any) -> None:
    """Raise `UserError` where rows change each other, or `derivative` is not that of `update`."""
    random = np.random.default_rng(0)
    x, h = (tuple(jnp.float32(random.normal(size=(cell.gates, 3, 4)))) for _ in range(2))
    parts, gradient = (tuple(jnp.float32(random.normal(size=(cell.states, 3, 4)))) for _ in "ab")
    state, gradient = (each if cell.states > 1 else each[0] for each in (parts, gradient))
    update = partial(apply_update, cell)
    alone = jax.tree.map(lambda array: array[:1], (x, h, state))
    own = cell.derivative

    @jax.jit
    def both():
        new, pullback = jax.vjp(update, x, h, state)
        told = own.function(x, h, state) if own else (new, pullback)
        first = jax.tree.map(lambda array: array[:1], new)
        return (new, pullback(gradient)), (told[0], told[1](gradient)), first, update(*alone)

    wanted, told, first, only = both()
    if not close(first, only):
        raise UserError(
            f"{name}: update mixes the sequences of a batch, expected an elementwise function"
        )
    if own is None or (isinstance(own, Derivative) and own.of is not cell.update):
        return  # which is inherited and not used
    if str(jax.tree.structure(wanted)) != str(jax.tree.structure(told)) or not close(
        wanted, told, 1e-3
    ):
        raise UserError(
            f"{name}: derivative is not that of update (value or gradients differ): correct it, or "
            "leave it out"
        )


def check_module(program: Program, config: SweepConfig) -> None:
    """Raise `UserError` for a module of the user's that is no function of parameters and sequence.

    Nothing but parameters is kept from one step to the next, so dropout would be the same always.
    Shorter sequences are padded, so where states depend on padding, a network would be tested as
    another one.
    """
    name, task, length = describe(config.experiment.cell), program.task, min(config.lengths)
    if issubclass(program.cell, Cell):
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
    padded = len(config.lengths) > 1
    kept = nnx.All(nnx.Not(nnx.Param), nnx.Not(nnx.RngState))

    def values(number):
        return nnx.state(new_network(program, jax.random.key(number)), kept)

    def states():
        network = new_network(program, jax.random.key(0))
        given: list[Any] = [(inputs,), (inputs,), (jnp.concatenate([inputs, others]),)]
        given += [(longer, begun)] if padded else []
        return [network.states(*arguments)[-1, 0] for arguments in given]

    # As programs: operation by operation, each would be compiled alone. The values of each number
    # by one of its own, since a constructor may draw with NumPy, which a second call would not see.
    one, other = (jax.jit(values, static_argnums=0)(number) for number in range(2))
    if not jax.tree.all(jax.tree.map(partial(np.array_equal, equal_nan=True), one, other)):
        raise UserError(
            f"{name}: draws values that are no nnx.Param, and they would be the same for "
            "every seed: make them an nnx.Param, or say them without chance"
        )
    last, again, beside, *behind = jax.jit(states)()
    if not close(last, again):
        raise UserError(
            f"{name}: called twice it gives different states: take out what is random or "
            "counts its calls (dropout), since parameters alone are kept between steps"
        )
    if not close(last, beside):
        raise UserError(
            f"{name}: the other sequences of a batch change the states of one (BatchNorm)"
        )
    if not all(close(last, state) for state in behind):
        raise UserError(
            f"{name}: padding behind a sequence changes its states, see where mask is False"
        )


def check_optimizer(name: str, value: Any, parameters: Any) -> None:
    """Raise `UserError` for an optimizer whose updates or state are not what they were given."""

    def step(parameters):
        before = value.init(parameters)
        return before, value.update(parameters, before, parameters)

    before, (updates, after) = jax.eval_shape(step, parameters)
    for what, found, wanted in (("updates", updates, parameters), ("state", after, before)):
        if shapes(found) != shapes(wanted):
            raise UserError(
                f"{name}: its update gives {what} of other shapes or types than it was given: "
                f"{shown(shapes(found))[:120]}, expected {shown(shapes(wanted))[:120]}"
            )


def check_schedule(name: str, value: Any, steps: int) -> None:
    """Raise `UserError` for a learning rate that is no function of the step to finite numbers."""
    if not callable(value):
        raise UserError(f"{name}: `learning_rate` must be a number or a function of the step")
    rates = [np.asarray(value(jnp.int32(step))) for step in (0, 1, max(steps - 1, 0))]
    for step, rate in zip((0, 1, steps - 1), rates, strict=True):
        if rate.shape != () or not np.isfinite(rate) or rate < 0:
            raise UserError(
                f"{name}: at step {step} it gives {shown(rate)}, expected a number from 0"
            )


def shapes(tree: Any) -> list[Any]:
    """The shapes and types of a tree's arrays, by their places."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(k), jnp.shape(v), jnp.result_type(v).name) for k, v in leaves]


def close(one: Any, other: Any, tolerance: float = 1e-4) -> bool:
    """Whether arrays differ by rounding at most."""
    same = partial(np.allclose, atol=tolerance, rtol=tolerance, equal_nan=True)
    return bool(jax.tree.all(jax.tree.map(same, one, other)))
