"""The network is the textbook's, and the frameworks' own RNNs agree with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax.config import RECURRENT_INITS, ExperimentConfig
from srn_jax.tasks.digit_sum import PADDING
from srn_jax.training.model import (
    SRN,
    DigitSumClassifier,
    Embedding,
    classifier_with,
    new_classifier,
    parameters_of,
)


@pytest.fixture
def model():
    return DigitSumClassifier(rngs=nnx.Rngs(0))


def digits_of(shape, seed=0):
    return jax.random.randint(jax.random.key(seed), shape, 0, 10)


def test_the_worked_example():
    srn = SRN(
        2,
        2,
        rngs=nnx.Rngs(0),
        W=jnp.array([[0.1, 0.2], [0.1, 0.2]]),
        U=jnp.array([[0.0, 0.1], [0.1, 0.0]]),
        b=jnp.array([[0.1, 0.1]]),
    )
    states = srn(jnp.array([[[1.0, 0.0], [0.0, 2.0]]]))
    assert np.asarray(states[0, -1]) == pytest.approx([0.31773996, 0.47749740], abs=1e-7)


def test_embedding_by_index_and_by_one_hot_are_equal():
    embedding = Embedding(10, 32, rngs=nnx.Rngs(0))
    digits = digits_of((4, 7))
    assert (embedding(digits) == embedding.by_one_hot(digits)).all()


def test_the_folded_input_side_equals_the_network_as_it_is_written(model):
    digits = digits_of((6, 9))
    plainly = model.output(model.srn(model.embedding(digits))[:, -1])
    assert np.asarray(model(digits)) == pytest.approx(np.asarray(plainly), abs=1e-6)


def test_padding_on_the_left_changes_nothing_to_the_bit(model):
    digits = digits_of((6, 9))
    padded = jnp.pad(digits, ((0, 0), (5, 0)), constant_values=PADDING)

    def loss(parameters, digits):
        return jnp.sum(classifier_with(parameters)(digits) ** 2)

    parameters = parameters_of(model)
    assert (model(padded) == model(digits)).all()
    ones, others = (jax.grad(loss)(parameters, x) for x in (digits, padded))
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-5, abs=1e-5)


def test_later_inputs_never_change_earlier_states():
    srn = SRN(4, 6, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(0), (1, 8, 4))
    jacobian = jax.jacobian(lambda x: srn(x)[0])(inputs)  # [time, D, 1, time, M]
    depends = np.abs(np.asarray(jacobian)).max(axis=(1, 2, 4)) > 0  # [state, input]
    assert (depends == np.tri(8, dtype=bool)).all()


def test_the_initial_state_is_used_and_zero_unless_given():
    srn = SRN(4, 6, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(0), (2, 3, 4))
    halves = srn(inputs[:, 1:], initial_state=srn(inputs[:, :1])[:, -1])
    assert np.asarray(halves) == pytest.approx(np.asarray(srn(inputs)[:, 1:]), abs=1e-6)
    assert (srn(inputs, jnp.zeros((2, 6))) == srn(inputs)).all()


def test_a_mask_makes_sequences_of_different_lengths_one_batch():
    srn = SRN(4, 6, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
    mask = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
    states = srn(inputs, mask=mask)
    assert (states[1, -1] == srn(inputs[1:, :3])[0, -1]).all()


def test_given_parameters_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"U has shape \(2, 3\), expected \(3, 3\)"):
        SRN(2, 3, rngs=nnx.Rngs(0), U=jnp.zeros((2, 3)))


def test_initial_parameters_have_the_textbooks_distributions():
    config = ExperimentConfig()
    many = jax.vmap(lambda key: parameters_of(new_classifier(config, key)))(
        jax.random.split(jax.random.key(0), 200)
    )
    limits = {
        ("embedding", "table"): np.sqrt(6 / 42),
        ("srn", "W"): np.sqrt(6 / 64),
        ("srn", "U"): np.sqrt(6 / 64),
        ("srn", "b"): np.sqrt(6 / 33),
        ("output", "kernel"): 1 / np.sqrt(32),
        ("output", "bias"): 1 / np.sqrt(32),
    }
    drawn = [(module, name) for module in many for name in many[module]]
    assert sorted(drawn) == sorted(limits)
    for (module, name), limit in limits.items():
        values = np.asarray(many[module][name]).ravel()
        assert np.abs(values).max() <= limit
        quantiles = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9]) / limit
        assert quantiles == pytest.approx([-0.8, -0.5, 0, 0.5, 0.8], abs=0.05)


@pytest.mark.parametrize("name", RECURRENT_INITS)
def test_recurrent_initialisations_are_what_they_are_called(name):
    config = ExperimentConfig(recurrent_init=name, hidden_size=24)
    U = np.asarray(new_classifier(config, jax.random.key(0)).srn.U[...])
    if name == "identity":
        assert (np.eye(24) == U).all()
    elif name == "orthogonal":
        assert pytest.approx(np.eye(24), abs=1e-5) == U @ U.T
    else:
        limit = np.sqrt(6 / 48) if name == "xavier" else 1 / np.sqrt(24)
        assert 0.95 * limit < np.abs(U).max() <= limit


def test_a_classifier_is_the_same_after_its_parameters_were_taken_out_and_put_back(model):
    digits = digits_of((3, 5))
    assert (classifier_with(parameters_of(model))(digits) == model(digits)).all()


def test_flax_own_rnn_agrees_in_values_and_gradients():
    srn = SRN(4, 6, rngs=nnx.Rngs(0))
    inputs = jax.random.normal(jax.random.key(0), (3, 9, 4))

    def ours(parameters, inputs):
        W, U, b = parameters
        return SRN(4, 6, rngs=nnx.Rngs(0), W=W, U=U, b=b)(inputs)

    def flax(parameters, inputs):
        W, U, b = parameters
        cell = nnx.SimpleCell(4, 6, activation_fn=jnp.tanh, rngs=nnx.Rngs(1))
        definition, state = nnx.split(cell)
        pure = nnx.to_pure_dict(state)
        dense = (
            pure["dense_i"] | {"kernel": W} | ({"bias": b[0]} if "bias" in pure["dense_i"] else {})
        )
        recurrent = pure["dense_h"] | {"kernel": U}
        if "bias" in recurrent:
            recurrent["bias"] = jnp.zeros(6) if "bias" in dense else b[0]
        nnx.replace_by_pure_dict(state, pure | {"dense_i": dense, "dense_h": recurrent})
        return nnx.RNN(nnx.merge(definition, state))(inputs)

    parameters = (srn.W[...], srn.U[...], srn.b[...])
    assert_agree(ours, flax, parameters, inputs)


@pytest.mark.needs_torch
def test_pytorchs_own_rnn_agrees_in_values_and_gradients():
    torch = pytest.importorskip("torch")
    srn = SRN(4, 6, rngs=nnx.Rngs(0))
    inputs = np.asarray(jax.random.normal(jax.random.key(0), (3, 9, 4)))
    outside = np.random.default_rng(0).normal(size=(3, 9, 6)).astype(np.float32)
    rnn = torch.nn.RNN(4, 6, batch_first=True)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.tensor(np.asarray(srn.W[...]).T))
        rnn.weight_hh_l0.copy_(torch.tensor(np.asarray(srn.U[...]).T))
        rnn.bias_ih_l0.zero_()
        rnn.bias_hh_l0.copy_(torch.tensor(np.asarray(srn.b[...])[0]))
    states, _ = rnn(torch.tensor(inputs))
    (states * torch.tensor(outside)).sum().backward()

    def scalar(W, U, b):
        states = SRN(4, 6, rngs=nnx.Rngs(0), W=W, U=U, b=b)(jnp.asarray(inputs))
        return jnp.sum(states * outside), states

    parameters = (srn.W[...], srn.U[...], srn.b[...])
    (W, U, b), ours = jax.grad(scalar, argnums=(0, 1, 2), has_aux=True)(*parameters)
    pairs = [
        (ours, states.detach()),
        (W, rnn.weight_ih_l0.grad.T),
        (U, rnn.weight_hh_l0.grad.T),
        (b[0], rnn.bias_hh_l0.grad),
    ]
    for one, other in pairs:
        scale = max(1.0, float(np.abs(np.asarray(one)).max()))  # float32: relative to its size
        assert np.abs(np.asarray(one) - np.asarray(other)).max() < 1e-6 * scale


def assert_agree(ours, theirs, parameters, inputs, tolerance=1e-6):
    outside = jax.random.normal(jax.random.key(1), ours(parameters, inputs).shape)

    def value_and_gradient(function):
        def scalar(p, x):
            return jnp.sum(function(p, x) * outside)

        return function(parameters, inputs), jax.grad(scalar, argnums=(0, 1))(parameters, inputs)

    for one, other in zip(
        *(jax.tree.leaves(value_and_gradient(f)) for f in (ours, theirs)), strict=True
    ):
        scale = max(1.0, float(jnp.abs(one).max()))
        assert np.abs(np.asarray(one - other)).max() < tolerance * scale
