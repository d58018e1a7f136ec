"""In a network the new cells and tasks behave as all do: alone, in a batch, padded, trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax.cells import GRU, SRN
from srn_jax.cells.gated import LSTM2026
from srn_jax.cells.linear_scan import LRU, MinGRU, MinLSTM
from srn_jax.cells.srn import IRNN, SRN2026, XavierIRNN
from srn_jax.tasks.edition_2026 import SETTINGS, FirstTokens2026
from srn_jax.tasks.parity import VariableParity
from srn_jax.tasks.recall import VariableCopying
from srn_jax.tasks.task import blanked, mask_of
from srn_jax.training.network import Network

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def split_network(task, kind, dtype="float32", **options):
    """A network as a function of its parameters, and these."""
    network = Network(task, kind, 8, 8, rngs=nnx.Rngs(0), **options)
    definition, state = nnx.split(network)

    def run(parameters, inputs, mask=None):
        own = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(own, parameters)
        return nnx.merge(definition, own)(inputs, mask)

    return run, jax.tree.map(lambda p: p.astype(dtype), nnx.to_pure_dict(state))


ALONE = [(VariableCopying(), kind, {}) for kind in (SRN, XavierIRNN, MinGRU, MinLSTM, LRU)]
ALONE += [(VariableParity(), kind, {}) for kind in (GRU, MinLSTM)]
SHAPES = [{"layers": 2}, {"bidirectional": True}]
ALONE += [
    (task, MinLSTM, shape) for task in (VariableCopying(), VariableParity()) for shape in SHAPES
]


@pytest.mark.parametrize(("task", "kind", "shape"), ALONE)
def test_a_batch_of_several_lengths_is_the_same_sequences_one_by_one(float64, task, kind, shape):
    run, parameters = split_network(task, kind, "float64", **shape)
    width = 26
    drawn = blanked(task, task.draw(jax.random.key(3), 5, 24, width), 24)
    mask = mask_of(drawn.lengths[:, None], width)
    every = task.answers is None

    def summed(parameters, inputs, targets, weights, mask):
        losses = task.loss(run(parameters, inputs, mask), jnp.asarray(targets, int))
        return jnp.sum(losses * (weights if every else 1))

    gradient = jax.jit(jax.value_and_grad(summed))
    together = gradient(parameters, drawn.inputs, drawn.targets, drawn.weights, mask)
    alone = []
    for n, length in enumerate(drawn.lengths.tolist()):
        own = (slice(n, n + 1), slice(width - length, None))
        targets = drawn.targets[own] if every else drawn.targets[n : n + 1]
        asked = jnp.ones((1, length)) if every else None
        alone.append(gradient(parameters, drawn.inputs[own], targets, asked, None))
    expected = jax.tree.map(lambda *parts: sum(parts), *alone)
    for ours, one_by_one in zip(*map(jax.tree.leaves, (together, expected)), strict=True):
        np.testing.assert_allclose(ours, one_by_one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [MinGRU, LRU])
def test_gradients_of_masked_positions_in_float32_are_those_of_float64(kind, request):
    task = VariableCopying()
    drawn = blanked(task, task.draw(jax.random.key(4), 5, 40, 44), 40)
    inputs, targets, lengths, weights = map(np.asarray, drawn)
    mask = np.asarray(mask_of(lengths[:, None], 44))
    run, parameters = split_network(task, kind)

    @jax.jit
    @jax.grad
    def gradient(parameters):
        losses = task.loss(run(parameters, inputs, mask), targets.astype(int))
        return jnp.sum(losses * weights) / jnp.sum(weights)

    found = gradient(parameters)
    request.getfixturevalue("float64")
    exact = gradient(jax.tree.map(lambda p: np.asarray(p, "float64"), parameters))
    for ours, expected in zip(*map(jax.tree.leaves, (found, exact)), strict=True):
        assert (ours.dtype, expected.dtype) == ("float32", "float64")
        assert np.max(np.abs(ours - expected)) < 1e-5 * np.max(np.abs(expected))


def test_an_irnn_is_pytorchs_rnn_of_rectified_units_and_starts_at_the_identity():
    cell = XavierIRNN(5, 7, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(cell.U[...], np.eye(7))
    assert np.all(np.asarray(cell.b[...]) == 0)
    theirs = torch.nn.RNN(5, 7, nonlinearity="relu", batch_first=True)
    inputs = np.random.default_rng(0).normal(size=(3, 20, 5)).astype("float32")
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.tensor(np.asarray(cell.W[...]).T))
        theirs.weight_hh_l0.copy_(torch.eye(7))
        theirs.bias_ih_l0.zero_()
        theirs.bias_hh_l0.zero_()
        expected = theirs(torch.tensor(inputs))[0].numpy()
    np.testing.assert_allclose(cell(inputs), expected, rtol=1e-4, atol=1e-5)
    W = np.asarray(IRNN(100, 100, rngs=nnx.Rngs(0)).W[...])
    assert W.std() == pytest.approx(0.001, rel=0.05) and abs(W.mean()) < 5e-5


def test_the_lstm_of_2026_is_pytorchs_with_both_its_biases():
    cell = LSTM2026(32, 64, rngs=nnx.Rngs(0))
    theirs = torch.nn.LSTM(32, 64, batch_first=True)
    rows = np.concatenate([np.arange(64) + 64 * gate for gate in (0, 1, 3, 2)])  # i f g o
    inputs = np.random.default_rng(0).normal(size=(3, 20, 32)).astype("float32")
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.tensor(np.asarray(cell.W[...]).T[rows]))
        theirs.weight_hh_l0.copy_(torch.tensor(np.asarray(cell.U[...]).T[rows]))
        theirs.bias_ih_l0.copy_(torch.tensor(np.asarray(cell.b[...])[0, rows]))
        theirs.bias_hh_l0.copy_(torch.tensor(np.asarray(cell.c[...])[0, rows]))
        expected = theirs(torch.tensor(inputs))[0].numpy()
    np.testing.assert_allclose(cell(inputs), expected, rtol=1e-4, atol=1e-5)
    for name in "WUbc":
        values = np.asarray(getattr(cell, name)[...])
        assert np.abs(values).max() <= 1 / 8 and np.abs(values).max() > 0.12
        assert values.std() == pytest.approx(1 / 8 / np.sqrt(3), rel=0.06)


def test_the_srn_of_2026_starts_as_written_there():
    cell = SRN2026(32, 64, rngs=nnx.Rngs(0))
    assert np.asarray(cell.W[...]).std() == pytest.approx(1 / np.sqrt(32), rel=0.05)
    np.testing.assert_array_equal(cell.U[...], np.eye(64))
    assert np.all(np.asarray(cell.b[...]) == 0)
    steps = SETTINGS["epochs"] * -(-SETTINGS["multiplicity"] * 500 // SETTINGS["batch_size"])
    assert steps == 480 == SETTINGS["epochs"] * SETTINGS["eval_interval"]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_both_directions_see_the_first_tokens_wherever_a_sequence_begins(bidirectional):
    """The backward state is asked after the first position, which is not the last column."""
    task = FirstTokens2026()
    run, parameters = split_network(task, LSTM2026, bidirectional=bidirectional)
    drawn = blanked(task, task.draw(jax.random.key(5), 4, 20, 23), 20)
    mask = mask_of(drawn.lengths[:, None], 23)
    answers = run(parameters, drawn.inputs, mask)
    for n, length in enumerate(drawn.lengths.tolist()):
        alone = run(parameters, drawn.inputs[n : n + 1, 23 - length :])
        np.testing.assert_allclose(answers[n : n + 1], alone, rtol=2e-5, atol=1e-6)
