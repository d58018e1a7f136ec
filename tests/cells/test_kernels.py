"""Accelerators' loops and the GPU kernels, interpreted, give what the plain recurrence gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_recurrence import Gated, Pair, problem

from srn_jax import GRU, LSTM, SRN, ResidualSRN
from srn_jax.cells.kernels import Kernels, check_size
from srn_jax.cells.loops import Stacked
from srn_jax.cells.planes import Planes, by_planes
from srn_jax.cells.recurrence import Plan, recurrence, reference_recurrence
from srn_jax.errors import UserError

CELLS = [SRN, ResidualSRN, LSTM, GRU, Gated, Pair]
by_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def run(function, cell, arrays, mask, outside, dtype, **plan):
    """States and gradients, computed in a type; `outside` is the gradient of the states."""
    last = plan.get("plan", Plan()).last
    arrays, outside = jax.tree.map(lambda a: jnp.asarray(a, dtype), (arrays, outside))

    def scalar(*arrays):
        states = function(cell, *arrays, mask, **plan)
        if last and function is reference_recurrence:
            states = jax.tree.map(lambda part: part[-1], states)
        weights = jax.tree.map(lambda part: part[-1], outside) if last else outside
        return sum(jax.tree.leaves(jax.tree.map(lambda s, o: jnp.sum(s * o), states, weights)))

    return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2, 3, 4)))(*arrays)


def assert_close(ones, others, tolerance):
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        scale = np.max(np.abs(np.asarray(other))) + 1e-30
        assert (
            np.max(np.abs(np.asarray(one, float) - np.asarray(other, float))) <= tolerance * scale
        )


def reference(cell, arrays, mask, outside, last):
    """The same in float64 by autodiff, of the last state alone if asked for."""

    def function(cell, *arguments, plan):
        states = reference_recurrence(cell, *arguments)
        return jax.tree.map(lambda part: part[-1], states) if plan.last else states

    return run(function, cell, arrays, mask, outside, jnp.float64, plan=Plan(last))


@by_cell
@pytest.mark.parametrize("unroll", [1, 3, 64])
@pytest.mark.parametrize("last", [False, True])
def test_the_loops_of_accelerators_are_the_plain_recurrence(cell, unroll, last):
    arrays, mask, outside = problem(cell, time=7)
    plan = Plan(last, Stacked(unroll))
    ours = run(recurrence, cell, arrays, mask, outside, jnp.float64, plan=plan)
    assert_close(ours, reference(cell, arrays, mask, outside, last), 1e-12)


@by_cell
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernels_are_the_plain_recurrence(cell, masked):
    """Eleven rows do not fill two programs, and the hidden size is one that they know."""
    arrays, mask, outside = problem(cell, time=5, batch=11, hidden=16)
    mask = mask if masked else None
    for last in (False, True):
        plan = Plan(last, Kernels())
        ours = run(recurrence, cell, arrays, mask, outside, jnp.float32, plan=plan)
        assert_close(ours, reference(cell, arrays, mask, outside, last), 1e-5)


@pytest.mark.slow
@by_cell
@pytest.mark.parametrize("length", range(5, 40, 5))
def test_the_kernels_keep_float32_at_every_length_of_the_textbook(cell, length):
    """Sizes are the textbook's, and weights its initial ones: uniform on +-sqrt(6 / 64)."""
    arrays, _, outside = problem(cell, time=length, batch=8, features=32, hidden=32)
    inputs, *weights, initial = arrays
    scale = np.sqrt(6 / 64) / np.sqrt(3) * 2  # of what `problem` draws, to the same deviation
    weights = jax.tree.map(lambda weight: weight * scale / 2, weights)
    arrays = inputs, *weights, jax.tree.map(np.zeros_like, initial)
    plan = Plan(True, Kernels())
    ours = run(recurrence, cell, arrays, None, outside, jnp.float32, plan=plan)
    # The states of a residual SRN grow, and the value is a sum in which they cancel: 1.4e-5 at 30.
    tolerance = 3e-5 if cell is ResidualSRN else 1e-5
    assert_close(ours, reference(cell, arrays, None, outside, True), tolerance)


def test_a_kernel_does_not_take_any_cell_or_size():
    with pytest.raises(UserError, match="hidden size of 16, 32, 64, got 48"):
        check_size(48)

    def sorts(x):
        return jnp.sort(x)[:7]

    with pytest.raises(UserError, match="--kernel does not understand"):
        by_planes(sorts, Planes([jnp.zeros((8, 16)), jnp.zeros((8, 16))]))
