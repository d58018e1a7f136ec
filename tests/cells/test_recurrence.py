"""The loop over time gives what autodiff gives, for any cell, on every platform's form."""

import itertools
from functools import partial

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from srn_jax.cells import GRU, LSTM, SRN, Cell, Derivative, ResidualSRN
from srn_jax.cells.recurrence import How, plain_recurrence, recurrence, rests

# jax 0.7 has it elsewhere.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class Leaky(Cell):
    def update(self, x, h, state):
        return 0.9 * state + 0.1 * jnp.tanh(x[0] + h[0])


class Product(Cell):
    """Nothing about it is additive, and at rest it moves."""

    gates, states, recurrent_bias = 2, 2, True

    def update(self, x, h, state):
        keep = jax.nn.sigmoid(x[0] * h[0] + 1)
        new = keep * state[0] + (1 - keep) * jnp.tanh(x[1] + h[1]) * state[1]
        return new, jnp.cos(state[1] + x[0])


class Root(Cell):
    """It rests, but its slope at rest is not finite."""

    def update(self, x, h, state):
        return jnp.sqrt(jnp.abs(x[0] + h[0]))


class Rectified(SRN):
    def update(self, x, h, state):
        return jax.nn.relu(x[0] + h[0])


class Halved(LSTM):
    def update(self, x, h, state):
        new, memory = super().update(x, h, state)
        return 0.5 * new, memory


class Mixin:
    update = Rectified.update


class Mixed(Mixin, LSTM):
    gates, states = 1, 1


ALL = [SRN, ResidualSRN, LSTM, GRU, Leaky, Product, Rectified, Halved, Mixed]
by_cell = pytest.mark.parametrize("cell", ALL, ids=lambda cell: cell.__name__)


def problem(cell, time=5, batch=3, features=4, size=6, dtype=jnp.float64):
    keys = iter(jax.random.split(jax.random.key(0), 6))
    columns = cell.gates * size

    def normal(*shape):
        return jax.random.normal(next(keys), shape, dtype)

    state = normal(batch, size)
    return (
        normal(time, batch, features),
        normal(features, columns),
        normal(size, columns),
        normal(1, columns) if cell.recurrent_bias else None,
        state if cell.states == 1 else (state, 0.5 * state),
    )


def total(run, cell, how, mask, *arguments):
    """A loss of all states, each with a gradient of its own."""
    parts = jax.tree.leaves(run(cell, how, *arguments, mask))
    return sum(jnp.sum(jnp.sin((n + 1) * part)) for n, part in enumerate(parts))


@by_cell
@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_values_and_gradients_are_autodiffs(cell, platform):
    ragged = jnp.arange(5)[:, None] >= jnp.array([[0, 2, 4]])
    alike = jnp.arange(5)[:, None] >= 2
    with enable_x64(True):
        given = problem(cell)
        wanted = [n + 3 for n, one in enumerate(given) if one is not None]
        for last, mask in itertools.product((False, True), (None, ragged, alike)):
            how = How(last=last, platform=platform)
            found, reference = (
                jax.jit(jax.value_and_grad(partial(total, run), wanted), static_argnums=(0, 1))(
                    cell, how, mask, *given
                )
                for run in (recurrence, plain_recurrence)
            )
            alone = total(recurrence, cell, how, mask, *given)  # without a gradient
            assert float(alone) == pytest.approx(float(reference[0]), abs=1e-10)
            for ours, theirs in zip(*map(jax.tree.leaves, (found, reference)), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_padding_needs_no_mask_where_a_cell_is_seen_to_rest():
    resting = {cell for cell in [*ALL, Root] if rests(cell)}
    assert resting == {SRN, ResidualSRN, LSTM, Leaky, Rectified, Halved, Mixed}


@by_cell
def test_blank_padding_changes_neither_states_nor_gradients(cell):
    features, weight, recurrent, bias, start = problem(cell, time=4, dtype=jnp.float32)
    start = jax.tree.map(jnp.zeros_like, start)
    padded = jnp.concatenate([jnp.zeros((3, *features.shape[1:])), features])
    mask = jnp.arange(7)[:, None] >= 3

    def last(features, mask, weight, recurrent):
        how = How(last=True, blank=True)
        state = recurrence(cell, how, features, weight, recurrent, bias, start, mask)
        return jnp.sum(jax.tree.leaves(state)[0] ** 2)

    for function in (last, jax.grad(last, (2, 3))):
        short = function(features, None, weight, recurrent)
        long = function(padded, mask, weight, recurrent)
        for one, other in zip(*map(jax.tree.leaves, (short, long)), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)


def test_a_slope_that_is_not_finite_at_rest_spoils_no_gradient():
    def last(W, time):
        inputs = jnp.concatenate([jnp.zeros((1, time - 3, 2)), jnp.ones((1, 3, 2))], axis=1)
        mask = (jnp.arange(time) >= time - 3)[None]
        cell = Root(2, 3, rngs=nnx.Rngs(0), W=W)
        return jnp.sum(cell(inputs, mask)[:, -1])

    W = jnp.ones((2, 3))
    assert np.isfinite(jax.grad(last)(W, 3)).all()


def test_nobody_inherits_a_derivative_that_computes_something_else():
    cell = Halved(3, 4, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(1), (2, 5, 3))

    def by_hand(U):
        state = (jnp.zeros((2, 4)),) * 2
        for t in range(5):
            x, h = inputs[:, t] @ cell.W[...] + cell.b[...], state[0] @ U
            state = cell.update(jnp.split(x, 4, axis=-1), jnp.split(h, 4, axis=-1), state)
        return jnp.sum(state[0])

    def ours(U):
        given = {"W": cell.W[...], "U": U, "b": cell.b[...]}
        return jnp.sum(Halved(3, 4, rngs=nnx.Rngs(0), **given)(inputs)[:, -1])

    U = cell.U[...]
    np.testing.assert_allclose(jax.grad(ours)(U), jax.grad(by_hand)(U), atol=1e-5)


def test_an_update_that_a_notebook_replaces_is_what_is_run_from_then_on():
    class Mine(LSTM):
        pass

    inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
    cell = Mine(3, 4, rngs=nnx.Rngs(0))

    def slope():
        return jax.grad(lambda inputs: jnp.sum(cell(inputs)))(inputs)

    before = cell(inputs), slope()
    Mine.update = lambda self, x, h, state: (jnp.sin(x[0] + h[0]), state[1])
    after = cell(inputs), slope()
    plain = jnp.sin(inputs[:, 0] @ cell.W[...][:, :4] + cell.b[...][:, :4])
    np.testing.assert_allclose(after[0][:, 0], plain, atol=1e-6)
    assert not any(np.allclose(one, other) for one, other in zip(before, after, strict=True))


def test_a_derivative_of_ones_own_is_used_for_its_update_alone():
    seen = []

    def function(x, h, state):
        seen.append("forward")
        new = jnp.tanh(x[0] + h[0])
        return new, Partial(pull, new)

    def pull(new, gradient):
        dz = 3 * gradient * (1 - new * new)  # thrice what is right, so it is told apart
        return (dz,), (dz,), jnp.zeros_like(new)

    class Mine(Cell):
        def update(self, x, h, state):
            return jnp.tanh(x[0] + h[0])

        derivative = Derivative(update, function)

    class Heir(Mine):
        def update(self, x, h, state):
            return jnp.tanh(x[0] + h[0])

    inputs = jnp.ones((1, 1, 2))
    slopes = [
        jax.grad(lambda inputs, kind=kind: jnp.sum(kind(2, 3, rngs=nnx.Rngs(0))(inputs)))(inputs)
        for kind in (Mine, Heir)
    ]
    np.testing.assert_allclose(slopes[0], 3 * slopes[1], rtol=1e-5)


def test_what_is_there_anyway_is_not_stacked_a_second_time():
    features, weight, recurrent, bias, start = problem(LSTM, dtype=jnp.float32)

    def last(weight):
        how = How(last=True, platform="cpu")
        return jnp.sum(recurrence(LSTM, how, features, weight, recurrent, bias, start)[0])

    scans = [e for e in jax.make_jaxpr(jax.grad(last))(weight).eqns if e.primitive.name == "scan"]
    forward = scans[0]
    stacked = sum(v.aval.ndim == 3 for v in forward.outvars)  # the carried are [batch, D]
    assert stacked == 6  # h, c and four gates: neither the old nor the new c a second time


def test_the_plain_recurrence_knows_forward_mode():
    features, weight, *others = problem(GRU, dtype=jnp.float32)

    def last(weight):
        return plain_recurrence(GRU, How(last=True), features, weight, *others)

    _, slope = jax.jvp(last, (weight,), (weight,))
    reverse = jax.vjp(last, weight)[1]
    assert float(jnp.sum(slope)) == pytest.approx(
        float(jnp.sum(reverse(jnp.ones_like(slope))[0] * weight)), rel=1e-4
    )
