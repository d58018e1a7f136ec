"""The cells are the textbook's and the frameworks', and causal, and padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax.cells import GRU, LSTM, SRN, Cell, ResidualSRN, cell_class
from srn_jax.errors import UserError

OURS = [SRN, ResidualSRN, LSTM, GRU]
by_cell = pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
W, U, b = [[0.1, 0.2], [0.1, 0.2]], [[0.0, 0.1], [0.1, 0.0]], [[0.1, 0.1]]


def worked(kind, inputs, **more):
    """The last state of a cell whose gates all have the same weights."""
    given = {name: jnp.tile(jnp.asarray(v), kind.gates) for name, v in zip("WUb", (W, U, b))}  # noqa: B905
    cell = kind(2, 2, rngs=nnx.Rngs(0), **given, **more)
    return np.asarray(cell(jnp.asarray([inputs]))[0, -1])


def inputs_of(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_the_worked_example_of_the_srn():
    states = worked(SRN, [[1.0, 0.0], [0.0, 2.0]])
    assert states == pytest.approx([0.31773996, 0.47749740], abs=1e-7)


def test_the_worked_example_of_the_lstm():
    assert worked(LSTM, [[1.0, 0.0]]).round(4) == pytest.approx([0.0594, 0.0952], abs=1e-6)


def test_a_residual_srn_adds_to_its_state():
    first = np.tanh([0.2, 0.3])
    assert worked(ResidualSRN, [[1.0, 0.0]]) == pytest.approx(first, abs=1e-7)
    second = first + np.tanh(np.array([0.3, 0.5]) + first @ np.array(U))
    assert worked(ResidualSRN, [[1.0, 0.0], [0.0, 2.0]]) == pytest.approx(second, abs=1e-6)


@pytest.mark.needs_torch
@pytest.mark.parametrize("kind", [SRN, LSTM, GRU], ids=lambda kind: kind.__name__)
def test_pytorchs_own_cells_agree_in_values_and_gradients(kind):
    torch = pytest.importorskip("torch")
    made = {SRN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}[kind]
    theirs = made(4, 6, batch_first=True)
    order = {SRN: [0], LSTM: [0, 1, 3, 2], GRU: [0, 1, 2]}[kind]  # PyTorch's is i, f, a, o

    def ordered(tensor):
        gates = np.split(tensor.detach().numpy(), kind.gates)
        return jnp.concatenate([jnp.asarray(gates[n]).reshape(6, -1) for n in order]).T

    weights = {"W": ordered(theirs.weight_ih_l0), "U": ordered(theirs.weight_hh_l0)}
    biases = ordered(theirs.bias_ih_l0[:, None]), ordered(theirs.bias_hh_l0[:, None])
    weights["b"], given = biases[0], {}
    if kind is GRU:
        given["c"] = biases[1]
    else:
        weights["b"] = biases[0] + biases[1]
    inputs = np.asarray(inputs_of(3, 9, 4))

    def ours(weights):
        states = kind(4, 6, rngs=nnx.Rngs(0), **weights, **given)(inputs)
        return jnp.sum(states**2), states

    (_, states), slopes = jax.value_and_grad(ours, has_aux=True)(weights)
    found = theirs(torch.tensor(inputs))[0]
    np.testing.assert_allclose(states, found.detach().numpy(), atol=1e-6)
    (found**2).sum().backward()
    for name, tensor in (("W", theirs.weight_ih_l0), ("U", theirs.weight_hh_l0)):
        np.testing.assert_allclose(slopes[name], ordered(tensor.grad), atol=2e-5)


@by_cell
def test_later_inputs_change_no_earlier_state(kind):
    cell, inputs = kind(3, 4, rngs=nnx.Rngs(0)), inputs_of(2, 6, 3)
    slopes = jax.jacobian(lambda inputs: cell(inputs)[0, 2])(inputs)
    assert np.any(slopes[:, 0, 2]) and not np.any(slopes[:, 0, 3:])
    assert not np.any(slopes[:, 1])


@by_cell
def test_the_state_stays_where_the_mask_is_false(kind):
    cell, inputs = kind(3, 4, rngs=nnx.Rngs(0)), inputs_of(2, 5, 3)
    mask = jnp.array([[False, False, True, True, True], [True, True, True, False, True]])
    states = cell(inputs, mask)
    np.testing.assert_allclose(states[0, 2:], cell(inputs[:1, 2:])[0], atol=1e-6)
    np.testing.assert_array_equal(states[1, 3], states[1, 2])
    assert not np.any(states[0, :2])


@by_cell
def test_each_gate_is_drawn_by_itself(kind):
    cell = kind(40, 30, rngs=nnx.Rngs(0))
    for gate in jnp.split(cell.W[...], kind.gates, axis=1):
        assert float(jnp.max(jnp.abs(gate))) == pytest.approx((6 / 70) ** 0.5, rel=0.02)
    identity = kind(40, 30, rngs=nnx.Rngs(0), recurrent_init="identity").U[...]
    assert (identity == jnp.tile(jnp.eye(30), kind.gates)).all()
    orthogonal = jnp.split(
        kind(4, 30, rngs=nnx.Rngs(0), recurrent_init="orthogonal").U[...], kind.gates, 1
    )
    for gate in orthogonal:
        np.testing.assert_allclose(gate @ gate.T, np.eye(30), atol=1e-5)


def test_the_forget_bias_is_added_to_that_of_the_forget_gate_alone():
    plain, more = (LSTM(3, 4, rngs=nnx.Rngs(0), forget_bias=bias).b[...] for bias in (0.0, 1.0))
    np.testing.assert_allclose((more - plain)[0], [0] * 4 + [1] * 4 + [0] * 8, atol=1e-6)


def test_a_chrono_start_is_the_papers():
    lstm, gru = (kind(3, 2000, rngs=nnx.Rngs(0), chrono=50.0) for kind in (LSTM, GRU))
    i, f, *_ = jnp.split(lstm.b[...], 4, axis=1)
    z, c = (jnp.split(bias[...], 3, axis=1)[1] for bias in (gru.b, gru.c))
    np.testing.assert_array_equal(i, -f)
    np.testing.assert_array_equal(c, 0)
    for log_times in (f, z):
        times = np.exp(np.asarray(log_times))
        assert times.min() >= 1 and times.max() <= 49 + 1e-4
        assert times.mean() == pytest.approx(25, abs=1)
    plain = LSTM(3, 2000, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(plain.W[...], lstm.W[...])
    np.testing.assert_array_equal(plain.b[...][:, 4000:], lstm.b[...][:, 4000:])


def test_gate_values_are_those_that_make_the_new_state():
    x, h, state = inputs_of(4, 5), inputs_of(4, 5, seed=1), inputs_of(2, 5, seed=2)
    found = object.__new__(LSTM).gate_values(x, h, state)
    new, memory = object.__new__(LSTM).update(x, h, state)
    np.testing.assert_allclose(found["O"] * jnp.tanh(found["C"]), new, atol=1e-6)
    np.testing.assert_array_equal(found["C"], memory)
    assert object.__new__(SRN).gate_values(x, h, state) == {}
    assert set(object.__new__(GRU).gate_values(x[:3], h[:3], state[0])) == {"R", "Z"}


def test_given_parameters_are_used_and_wrong_shapes_refused():
    with pytest.raises(ValueError, match=r"U has shape \(2, 3\), expected \(2, 2\)"):
        SRN(2, 2, rngs=nnx.Rngs(0), U=jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="no recurrent bias"):
        SRN(2, 2, rngs=nnx.Rngs(0), c=jnp.zeros((1, 2)))
    with pytest.raises(UserError, match="`recurrent_init` must be one of xavier"):
        SRN(2, 2, rngs=nnx.Rngs(0), recurrent_init="none")
    with pytest.raises(UserError, match="no method update"):
        Cell(2, 2, rngs=nnx.Rngs(0))(jnp.zeros((1, 1, 2)))


def test_a_cell_is_a_class_or_a_name():
    assert cell_class("gru") is GRU and cell_class(GRU) is GRU
    with pytest.raises(UserError, match="`cell` must be a class"):
        cell_class(GRU(2, 2, rngs=nnx.Rngs(0)))
