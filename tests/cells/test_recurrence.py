"""The hand-written backward pass is autodiff's, in float64, whatever is asked of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from srn_jax.cells.recurrence import recurrence, reference_recurrence


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def problem(time, batch=3, features=4, hidden=5, seed=0):
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(time, batch, features))
    input_weight = random.normal(size=(features, hidden)) / 2
    weight = random.normal(size=(hidden, hidden)) / 2
    initial = random.normal(size=(batch, hidden))
    mask = random.random((time, batch)) < 0.6
    outside = random.normal(size=(time, batch, hidden))  # gradient that reaches every state
    return inputs, input_weight, weight, initial, mask, outside


def value_and_gradients(function, *arguments):
    *arrays, mask, outside = arguments

    def scalar(*arrays):
        return jnp.sum(function(*arrays, mask) * outside)

    return function(*arrays, mask), *jax.grad(scalar, argnums=(0, 1, 2, 3))(*arrays)


def assert_equal(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert one.dtype == jnp.float64
        assert np.abs(np.asarray(one - other)).max() < 1e-10


@pytest.mark.parametrize("time", [1, 2, 5, 35])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_the_reference(time, masked):
    *arrays, mask, outside = problem(time)
    mask = mask if masked else None
    fast, plain = (
        value_and_gradients(function, *arrays, mask, outside)
        for function in (recurrence, reference_recurrence)
    )
    assert_equal(fast, plain)


def test_they_are_equal_under_vmap_over_everything():
    problems = [
        jnp.stack(arrays) for arrays in zip(*(problem(6, seed=s) for s in range(4)), strict=True)
    ]
    fast, plain = (
        jax.jit(jax.vmap(lambda *arrays, f=function: value_and_gradients(f, *arrays)))(*problems)
        for function in (recurrence, reference_recurrence)
    )
    assert_equal(fast, plain)


def test_they_are_equal_inside_a_scan():
    inputs, input_weight, weight, initial, _, _ = problem(6)

    def descend(function):
        def step(weight, _):
            def loss(weight):
                return jnp.sum(function(inputs, input_weight, weight, initial)[-1] ** 2)

            value, gradient = jax.value_and_grad(loss)(weight)
            return weight - 0.1 * gradient, value

        weight_, losses = jax.lax.scan(step, jnp.asarray(weight), length=10)
        return weight_, losses

    assert_equal(descend(recurrence), descend(reference_recurrence))


def test_the_gradient_agrees_with_finite_differences():
    *arrays, mask, _ = problem(4)
    check_grads(
        lambda *args: recurrence(*args, mask),
        tuple(map(jnp.asarray, arrays)),
        order=1,
        modes=["rev"],
        atol=1e-7,
        rtol=1e-7,
        eps=1e-5,
    )


def test_a_masked_step_leaves_the_state_as_it_was():
    *arrays, initial, _, _ = problem(3)
    mask = np.zeros((3, 3), bool)
    states = recurrence(*arrays, initial, jnp.asarray(mask))
    assert (np.asarray(states) == initial[None]).all()


def test_zero_features_on_the_left_leave_a_zero_state_at_exactly_zero():
    features, *weights, initial, _, _ = problem(6)
    zeros = np.zeros_like(initial)
    padded = np.concatenate([np.zeros((4, *features.shape[1:])), features])
    states = recurrence(padded, *weights, zeros)
    assert (np.asarray(states[:4]) == 0).all()
    assert (np.asarray(states[4:]) == np.asarray(recurrence(features, *weights, zeros))).all()
