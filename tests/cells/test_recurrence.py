"""The hand-written backward pass is autodiff's, in float64, for every cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from srn_jax import GRU, LSTM, SRN, Cell, ResidualSRN
from srn_jax.cells.recurrence import output, recurrence, reference_recurrence


class Gated(Cell):
    """As a user writes one; it maps (0, 0) to something else, and its sides do not add up."""

    gates = 2

    def update(self, x, h, state):
        z = jax.nn.sigmoid(x[..., 0, :] - 2 * h[..., 0, :])
        return z * state + (1 - z) * jnp.cos(x[..., 1, :] * h[..., 1, :])


class Pair(Cell):
    """Two parts of a state, and a recurrent bias."""

    gates = 3
    states = 2
    recurrent_bias = True

    def update(self, x, h, state):
        f, i, o = (jax.nn.sigmoid(x[..., n, :] + h[..., n, :]) for n in range(3))
        memory = f * state[1] + i * jnp.tanh(x[..., 1, :] * h[..., 2, :])
        return o * memory + state[0] / 2, memory


CELLS = [SRN, ResidualSRN, LSTM, GRU, Gated, Pair]
by_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def problem(cell, time, batch=3, features=4, hidden=5, seed=0):
    """The arguments of `recurrence` after the cell, and a gradient that reaches every state."""
    random = np.random.default_rng(seed)
    columns = cell.gates * hidden
    inputs = random.normal(size=(time, batch, features))
    input_weight = random.normal(size=(features, columns)) / 2
    weight = random.normal(size=(hidden, columns)) / 2
    bias = random.normal(size=(1, columns)) if cell.recurrent_bias else None
    state = [random.normal(size=(batch, hidden)) for _ in range(cell.states)]
    outside = [random.normal(size=(time, batch, hidden)) for _ in range(cell.states)]
    mask = random.random((time, batch)) < 0.6
    initial, outside = (tuple(s) if cell.states > 1 else s[0] for s in (state, outside))
    return (inputs, input_weight, weight, bias, initial), mask, outside


def value_and_gradients(function, cell, arrays, mask, outside):
    def scalar(*arrays):
        states = function(cell, *arrays, mask)
        return sum(jax.tree.leaves(jax.tree.map(lambda s, o: jnp.sum(s * o), states, outside)))

    return function(cell, *arrays, mask), jax.grad(scalar, argnums=(0, 1, 2, 3, 4))(*arrays)


def both(cell, *arguments, mapped=lambda function: function):
    """What the fast and the plain recurrence give."""
    return (
        jax.jit(mapped(lambda *arguments, f=function: value_and_gradients(f, cell, *arguments)))(
            *arguments
        )
        for function in (recurrence, reference_recurrence)
    )


def assert_equal(ones, others):
    assert jax.tree.structure(ones) == jax.tree.structure(others)
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        assert one.dtype == jnp.float64
        assert np.abs(np.asarray(one - other)).max() < 1e-10


@by_cell
def test_values_and_gradients_equal_the_reference(cell):
    arrays, _, outside = problem(cell, 7)
    assert_equal(*both(cell, arrays, None, outside))


@by_cell
def test_they_equal_it_under_a_mask(cell):
    arrays, mask, outside = problem(cell, 5)
    assert_equal(*both(cell, arrays, mask, outside))


@by_cell
def test_they_are_equal_under_vmap_over_everything(cell):
    problems = [problem(cell, 35, seed=seed) for seed in range(4)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *problems)
    assert_equal(*both(cell, *stacked, mapped=jax.vmap))


@pytest.mark.parametrize("cell", [SRN, LSTM, Pair])
def test_they_are_equal_inside_a_scan(cell):
    (inputs, input_weight, weight, bias, initial), _, _ = problem(cell, 6)
    mask = jnp.arange(6)[:, None] > 1  # [time, 1]: the same for the whole batch

    def descend(function):
        def step(weights, _):
            def loss(weights):
                states = function(cell, inputs, *weights, bias, initial, mask)
                return jnp.sum(output(states)[-1] ** 2)

            value, gradient = jax.value_and_grad(loss)(weights)
            return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient), value

        start = jnp.asarray(input_weight), jnp.asarray(weight)
        return jax.jit(lambda: jax.lax.scan(step, start, length=10))()

    assert_equal(descend(recurrence), descend(reference_recurrence))


@pytest.mark.parametrize("cell", [SRN, GRU])
def test_the_gradient_agrees_with_finite_differences(cell):
    arrays, mask, _ = problem(cell, 4)
    given = tuple(jax.tree.map(jnp.asarray, array) for array in arrays if array is not None)

    def states(*arrays):
        if not cell.recurrent_bias:
            arrays = (*arrays[:3], None, *arrays[3:])
        return recurrence(cell, *arrays, mask)

    check_grads(states, given, order=1, modes=["rev"], atol=1e-7, rtol=1e-7, eps=1e-5)


@pytest.mark.parametrize("cell", [SRN, LSTM, Gated])
def test_a_masked_step_leaves_the_state_as_it_was(cell):
    arrays, _, _ = problem(cell, 3)
    states = recurrence(cell, *arrays, jnp.zeros((3, 3), bool))
    for all, first in zip(*map(jax.tree.leaves, (states, arrays[-1])), strict=True):
        assert (np.asarray(all) == first[None]).all()


@by_cell
def test_a_cells_own_step_and_derivative_are_those_of_its_update(cell):
    """The formulas that a cell brings to be faster, against `update` and autodiff of it."""
    random = np.random.default_rng(0)
    x, h = (jnp.asarray(random.normal(size=(3, cell.gates * 5))) for _ in range(2))
    parts = jnp.asarray(random.normal(size=(2, cell.states, 3, 5)))
    state, gradient = (tuple(part) if cell.states > 1 else part[0] for part in parts)
    new, kept = cell.step(x, h, state)
    assert_equal(new, cell.plain_step(x, h, state))
    kept = new if cell.keeps_state else x if kept is None else kept
    assert kept.shape == x.shape
    own = cell.derivative(kept, None if cell.additive else h, state, gradient)
    assert_equal(own, jax.vjp(cell.plain_step, x, h, state)[1](gradient))


def test_a_single_position_equals_the_reference():
    arrays, _, outside = problem(SRN, 1)
    assert_equal(*both(SRN, arrays, None, outside))


def test_zero_features_on_the_left_leave_a_zero_state_of_an_srn_at_exactly_zero():
    (features, *weights, initial), _, _ = problem(SRN, 6)
    zeros = np.zeros_like(initial)
    padded = np.concatenate([np.zeros((4, *features.shape[1:])), features])
    states = recurrence(SRN, padded, *weights, zeros)
    assert (np.asarray(states[:4]) == 0).all()
    assert (np.asarray(states[4:]) == np.asarray(recurrence(SRN, features, *weights, zeros))).all()
