"""Gradients, Jacobians and readouts are what independent calculations give."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax.analysis import memory
from srn_jax.analysis.summary import wilson_interval
from srn_jax.cells import GRU, LSTM, SRN, Cell, ResidualSRN
from srn_jax.errors import UserError
from srn_jax.tasks import Adding, DigitSum, Recall
from srn_jax.tasks.task import Examples, Task, Vectors
from srn_jax.training.model import Network

CELLS = [SRN, ResidualSRN, LSTM, GRU]
# Every cell and every task at least once.
PAIRS = [(SRN, DigitSum()), (ResidualSRN, Adding()), (LSTM, Recall()), (GRU, DigitSum())]
D, T = 4, 6


def approx(value, **tolerances):
    return pytest.approx(np.asarray(value) if np.ndim(value) else value, **tolerances)


class Linear(Cell):
    """h' = x W + b + h U, of which everything is known."""

    def update(self, x, h, state):
        return (x + h)[..., 0, :]


class OneNumber(Task):
    """A number of 0..9 at each position, as a vector of one; which was the first?"""

    inputs = Vectors(1)
    outputs = 10


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def network_of(cell, task=None, hidden_size=D, **weights):
    network = Network(task or DigitSum(), cell, 3, hidden_size, rngs=nnx.Rngs(0), **weights)
    nnx.update(network, jax.tree.map(lambda a: a * 1.0, nnx.state(network)))
    return network


def double(network):
    state = jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(network))
    nnx.update(network, state)
    return network


def examples_of(task, number=5, length=T):
    return task.draw(jax.random.key(1), number, length, length)


def linear(A, B):
    """A network whose state is s_t = A s_{t-1} + B x_t."""
    size = len(A)
    zero = jnp.zeros((1, size))
    weights = {"U": jnp.asarray(A, jnp.float32).T, "W": jnp.asarray([B], jnp.float32), "b": zero}
    return network_of(Linear, OneNumber(), size, **weights)


def sequences(number, length, seed):
    return np.random.default_rng(seed).integers(10, size=(number, length))


def readouts_of_first(network, length, seed=0):
    """Accuracy of a readout of the first number, at every position."""
    train, test = sequences(600, length, seed), sequences(400, length, seed + 1)
    states = [memory.unroll(network, x[..., None].astype(np.float32)) for x in (train, test)]
    one = jax.jit(partial(memory.readout_accuracy, classes=10))
    return [
        float(one(a, train[None, :, 0], b, test[None, :, 0])[0])
        for a, b in zip(*states, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "task"), PAIRS)
def test_the_states_are_those_of_the_network(cell, task):
    network, inputs = network_of(cell, task), examples_of(task).inputs
    found = memory.unroll(network, inputs)
    assert found.shape == (T, 5, cell.states * D)
    assert found[..., :D] == approx(network.states(inputs), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "task"), PAIRS)
def test_gradients_through_time_are_finite_differences(float64, cell, task):
    network, examples = double(network_of(cell, task)), examples_of(task)
    if task.inputs == Vectors(2):
        examples = Examples(*(a.astype(jnp.float64) for a in examples))
    gradient = np.asarray(memory.gradient_through_time(task, network, examples))

    @jax.jit
    def losses(added):
        states = memory.unroll(network, examples.inputs, added)[..., :D]
        found = task.loss(network.answer(states), examples.targets)
        return found if found.ndim == 1 else found.mean(axis=1)

    some = np.random.default_rng(0).integers([T, 5, cell.states * D], size=(12, 3))
    for t, row, unit in some:
        added = np.zeros(gradient.shape)
        added[t, row, unit] = 1e-6
        change = np.asarray(losses(added) - losses(-added)) / 2e-6
        assert change[row] == approx(gradient[t, row, unit], rel=1e-6, abs=1e-10)
        assert np.delete(change, row) == approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS[1:])
def test_the_product_of_jacobians_is_the_jacobian_of_the_whole_map(float64, cell):
    network, examples = double(network_of(cell)), examples_of(DigitSum())
    side, states = (
        memory.input_side(network, examples.inputs),
        memory.unroll(network, examples.inputs),
    )

    def whole(state, row):
        for x in side[2:, row]:
            state = memory.transition(network.cell, x, state)
        return state

    product, scale = memory.product_of(memory.jacobians(network, examples.inputs)[1:])
    for row in range(5):
        wanted = jax.jacrev(whole)(states[1, row], row)
        assert product[row] * 10 ** scale[row] == approx(wanted, rel=1e-9, abs=1e-14)
        values = np.linalg.svd(wanted, compute_uv=False)
        found = memory.singular_values(product)[row] * 10 ** scale[row]
        assert found == approx(values, rel=1e-9, abs=1e-14)


@pytest.mark.slow
def test_an_orthogonal_linear_network_neither_shrinks_nor_grows_anything():
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    network = linear(U, np.ones(8))
    each = memory.jacobians(network, sequences(3, 300, 0)[..., None].astype(np.float32))
    assert memory.singular_values(each) == approx(1, abs=1e-5)
    product, scale = memory.product_of(each)
    assert memory.singular_values(product) * 10 ** scale[:, None] == approx(1, abs=1e-4)


def test_a_product_outside_the_range_of_float32_is_still_known():
    each = jnp.broadcast_to(jnp.eye(3) * 1e-3, (50, 1, 3, 3))
    product, scale = memory.product_of(each)
    assert np.log10(memory.singular_values(product)) + scale[:, None] == approx(-150, abs=1e-3)
    product, scale = memory.product_of(jnp.zeros((4, 1, 3, 3)))
    assert np.all(np.isfinite(product)) and np.all(np.isfinite(scale))


def test_norms_far_below_one_do_not_vanish():
    vectors = jnp.full((2, 3, 4), 1e-30).at[1].set(0)
    assert memory.root_mean_square_norm(vectors) == approx([2e-30, 0], rel=1e-5)


@pytest.mark.slow
def test_a_shift_register_remembers_exactly_as_long_as_it_is_wide():
    width = 4
    network = linear(np.eye(width, k=-1), np.eye(width)[0])
    accuracies = readouts_of_first(network, 8)
    assert accuracies[:width] == [1.0] * width
    for accuracy in accuracies[width:]:
        chance = wilson_interval(round(400 * accuracy), 400)
        assert chance.low < 0.13 and accuracy < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 3])
def test_a_linear_network_holds_as_many_numbers_as_its_controllability_matrix_has_rank(rank):
    A = np.diag([0.9, -0.8, 0.5, -0.3])
    B = np.where(np.arange(4) < rank, 1.0, 0.0)
    controllability = np.stack([np.linalg.matrix_power(A, n) @ B for n in range(4)], axis=1)
    assert np.linalg.matrix_rank(controllability) == rank
    accuracies = readouts_of_first(linear(A, B), rank + 3)
    assert min(accuracies[:rank]) > 0.99
    assert max(accuracies[rank + 1 :]) < 0.6


def test_readouts_find_nothing_in_shuffled_labels():
    states = np.random.default_rng(0).normal(size=(40, 300, 6)).astype(np.float32)
    labels = np.tile(np.arange(10), 30)
    states += labels[:, None]  # which a readout finds
    random = np.random.default_rng(1)
    one = jax.jit(partial(memory.readout_accuracy, classes=10))
    right = [one(s, labels[None], s, labels[None])[0] for s in states[:5]]
    assert min(right) > 0.3
    found = [one(s, random.permutation(labels)[None], s, labels[None])[0] for s in states]
    chance = wilson_interval(round(sum(found) * 300), 40 * 300)
    assert chance.low < 0.1 < chance.high


@pytest.mark.slow
def test_the_readout_is_linear_discriminant_analysis():
    random = np.random.default_rng(0)
    labels, right = random.integers(4, size=(2, 200))
    train, test = (
        random.normal(size=(200, 5)) + y[:, None] * [1, 0.5, 0, 0, 0] for y in (labels, right)
    )
    means = np.stack([train[labels == k].mean(axis=0) for k in range(4)])
    within = np.cov((train - means[labels]).T, bias=True)
    within += memory.RIDGE * np.mean((train - train.mean(axis=0)) ** 2) * np.eye(5)
    distance = [[(x - m) @ np.linalg.solve(within, x - m) for m in means] for x in test]
    answers = np.argmin(np.array(distance) - 2 * np.log(np.bincount(labels) / 200), axis=1)
    found = memory.readout_accuracy(
        *map(jnp.float32, (train,)), labels[None], jnp.float32(test), right[None], classes=4
    )
    assert found[0] == approx(np.mean(answers == right), abs=0.011)


@pytest.mark.slow
def test_states_that_are_all_the_same_hold_nothing():
    states, labels = jnp.ones((100, 3)), jnp.arange(100)[None] % 10
    assert memory.readout_accuracy(states, labels, states, labels, 10)[0] == approx(0.1)


def test_the_worked_example_of_an_lstm():
    repeat = partial(np.tile, reps=(1, 4))
    W, U = repeat([[0.1, 0.2], [0.1, 0.2]]), repeat([[0, 0.1], [0.1, 0]])
    cell = LSTM(2, 2, rngs=nnx.Rngs(0), W=W, U=U, b=np.full((1, 8), 0.1))
    network = SimpleNamespace(cell=cell, hidden_size=2)
    h = memory.unroll(network, np.array([[[1.0, 0.0]]], np.float32))[0, 0, :2]
    assert h == approx([0.0594, 0.0952], abs=1e-4)


@pytest.mark.slow
def test_gates_are_those_that_made_the_states():
    network, inputs = network_of(LSTM), examples_of(DigitSum(), 1).inputs
    gates, states = memory.gates_of(network, inputs), memory.unroll(network, inputs)[:, 0].T
    assert list(gates) == ["I", "F", "O", "C"] and gates["I"].shape == (D, T)
    assert gates["C"] == approx(states[D:], abs=1e-6)
    assert gates["O"] * np.tanh(gates["C"]) == approx(states[:D], abs=1e-6)
    with pytest.raises(UserError, match="SRN has no gates"):
        memory.gates_of(network_of(SRN), inputs)

    class Short(LSTM):
        gate_values = classmethod(lambda cls, x, h, state: {"I": x[0]})

    with pytest.raises(UserError, match=r"gate I has shape \(1, .*, expected"):
        memory.gates_of(network_of(Short), inputs)


def test_a_cell_has_the_gates_that_it_names_and_not_those_of_another_update():
    class Other(LSTM):
        def update(self, x, h, state):
            return super().update(x, h, state)

    class Named(Other):
        gate_values = LSTM.gate_values

    has = {kind.__name__: memory.has_gates(kind) for kind in (SRN, LSTM, GRU, Other, Named, Linear)}
    assert has == {"SRN": False, "LSTM": True, "GRU": True, "Other": False, "Named": True} | {
        "Linear": False
    }


@pytest.mark.slow
def test_probe_targets_are_whole_numbers_and_columns_are_numbered():
    recall = Recall()
    recall.probe_targets = lambda examples: {"symbol": examples.targets}
    assert list(memory.labels_of(recall, examples_of(recall))) == [
        "symbol 1",
        "symbol 2",
        "symbol 3",
    ]
    adding = Adding()
    assert list(memory.labels_of(adding, examples_of(adding))) == ["sum in tenths"]
    adding.probe_targets = lambda examples: {"sum": examples.targets}
    with pytest.raises(UserError, match="target sum is float32 of shape"):
        memory.labels_of(adding, examples_of(adding))
    adding.probe_targets = lambda examples: {"sum": np.arange(3, dtype=np.int32)}
    with pytest.raises(UserError, match="target sum is int32 of shape"):
        memory.labels_of(adding, examples_of(adding))
    adding.probe_targets = lambda examples: 5
    with pytest.raises(UserError, match="probe_targets gives int, expected arrays by name"):
        memory.labels_of(adding, examples_of(adding))
    with pytest.raises(UserError, match="go from -1 to 3"):
        memory.number_of_classes(np.array([-1, 3]))
