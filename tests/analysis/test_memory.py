"""Gradients, Jacobians and readouts are what independent calculations give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax.analysis import memory
from srn_jax.analysis.explanation import explain_variant
from srn_jax.cells import GRU, LSTM, SRN, ResidualSRN
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.mapping import draw_tests, evaluate_experiments, map_experiments
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import Sequences, Splits
from srn_jax.tasks import Adding, DigitSum
from srn_jax.tasks.task import Examples, Task, Tokens, Vectors, place_of
from srn_jax.training.network import Network, new_network, parameters_of
from srn_jax.training.program import program_of

CELLS = [SRN, ResidualSRN, LSTM, GRU]
D, T = 4, 6


def approx(value, **tolerances):
    return pytest.approx(np.asarray(value) if np.ndim(value) else value, **tolerances)


class EveryPosition(Task):
    """How many ones so far, modulo 2; sequences differ in length."""

    inputs, outputs, answers = Tokens(2), 2, None

    def draw(self, key, number, length, width):
        keys = jax.random.split(key)
        bits = jax.random.bernoulli(keys[0], shape=(width, number))[::-1].T
        lengths = jax.random.randint(keys[1], (number,), 2, length + 1)
        bits = jnp.where(place_of(lengths[:, None], width) >= 0, bits, 0).astype(jnp.int8)
        return Examples(bits, jnp.cumsum(bits, axis=1) % 2, lengths)

    def probe_targets(self, examples):
        return {"parity": examples.targets[:, -1], "length is odd": examples.lengths % 2}


# Every cell and every task at least once.
PAIRS = [(SRN, DigitSum()), (ResidualSRN, Adding()), (LSTM, DigitSum()), (GRU, EveryPosition())]


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


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "task"), PAIRS)
def test_the_states_are_those_of_the_network(cell, task):
    network, examples = network_of(cell, task), examples_of(task)
    mask = memory.begun(examples)
    found = memory.unroll(network, examples.inputs, mask)
    assert found.shape == (T, 5, cell.states * D)
    assert found[..., :D] == approx(network.states(examples.inputs, mask), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "task"), PAIRS)
def test_gradients_through_time_are_finite_differences(float64, cell, task):
    network, examples = double(network_of(cell, task)), examples_of(task)
    if isinstance(task.inputs, Vectors):
        examples = Examples(*(a.astype(jnp.float64) for a in examples[:2]))
    if task.answers is None:
        weights = jnp.arange(5 * T, dtype=jnp.float64).reshape(5, T)
        examples = examples._replace(weights=weights)
    gradient = np.asarray(memory.gradient_through_time(task, network, examples))
    mask = memory.begun(examples)

    @jax.jit
    def losses(added):
        states = memory.unroll(network, examples.inputs, mask, added)[..., :D]
        found = task.loss(network.answer(states), examples.targets)
        if examples.weights is not None:
            return jnp.sum(found * weights, axis=1) / jnp.sum(weights, axis=1)
        return found if found.ndim == 1 else found.mean(axis=1)

    some = np.random.default_rng(0).integers([T, 5, cell.states * D], size=(12, 3))
    for t, row, unit in some:
        added = np.zeros(gradient.shape)
        added[t, row, unit] = 1e-6
        change = np.asarray(losses(added) - losses(-added)) / 2e-6
        assert change[row] == approx(gradient[t, row, unit], rel=1e-6, abs=1e-9)
        assert np.delete(change, row) == approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS[1:])
def test_the_product_of_jacobians_is_the_jacobian_of_the_whole_map(float64, cell):
    network, examples = double(network_of(cell)), examples_of(DigitSum())
    side, states = (of(network, examples.inputs) for of in (memory.input_side, memory.unroll))

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
def test_padding_changes_nothing_that_is_measured():
    task = EveryPosition()
    network, padded = network_of(SRN, task), examples_of(task, 2, 5)
    mask = memory.begun(padded)
    gradient = memory.gradient_through_time(task, network, padded._replace(weights=mask * 1.0))
    states, each = (of(network, padded.inputs, mask) for of in (memory.unroll, memory.jacobians))
    for row, length in enumerate(padded.lengths.tolist()):
        one = Examples(
            padded.inputs[row : row + 1, -length:], padded.targets[row : row + 1, -length:]
        )
        alone = memory.gradient_through_time(task, network, one)[:, 0]
        assert gradient[-length:, row] == approx(alone, abs=1e-6)
        assert states[-length:, row] == approx(memory.unroll(network, one.inputs)[:, 0], abs=1e-6)
        its = memory.jacobians(network, one.inputs)[:, 0]
        assert each[5 - length :, row] == approx(its, abs=1e-6)
        before = max(0, 4 - length)
        assert each[:before, row] == approx(np.stack([np.eye(D)] * 4)[:before])


def test_a_product_outside_the_range_of_float32_is_still_known():
    each = jnp.broadcast_to(jnp.eye(3) * 1e-3, (50, 1, 3, 3))
    product, scale = memory.product_of(each)
    assert np.log10(memory.singular_values(product)) + scale[:, None] == approx(-150, abs=1e-3)
    product, scale = memory.product_of(jnp.zeros((4, 1, 3, 3)))
    assert np.all(np.isfinite(product)) and np.all(np.isfinite(scale))


def test_norms_far_below_one_do_not_vanish():
    vectors, begun = jnp.full((2, 3, 4), 1e-30).at[1].set(0), jnp.ones((2, 3), bool)
    assert memory.root_mean_square_norm(vectors, begun) == approx([2e-30, 0], rel=1e-5)
    begun, vectors = begun.at[0, 0].set(False), vectors.at[0, 0].set(0)
    assert memory.root_mean_square_norm(vectors, begun)[0] == approx(2e-30, rel=1e-5)


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
def test_gates_are_those_that_made_the_states():
    network, inputs = network_of(LSTM), examples_of(DigitSum(), 1).inputs
    gates = memory.gates_along(network, inputs[0].tolist())
    states = memory.unroll(network, inputs)[:, 0].T
    assert list(gates) == ["I", "F", "O", "C"] and gates["I"].shape == (D, T)
    assert gates["C"] == approx(states[D:], abs=1e-6)
    assert gates["O"] * np.tanh(gates["C"]) == approx(states[:D], abs=1e-6)
    with pytest.raises(UserError, match="SRN has no gates"):
        memory.gates_along(network_of(SRN), [1, 2])
    with pytest.raises(UserError, match="LSTM has no gates to show"):
        memory.gates_along(network_of(LSTM, layers=2), [1, 2])

    class Short(LSTM):
        def gate_values(self, x, h, state):
            return {"I": x[0][0]}

    class Other(LSTM):
        """Another update, whose gates nobody has told."""

        def update(self, x, h, state):
            return super().update(x, h, state)

    class Named(Other):
        gate_values = LSTM.gate_values

    class Same(LSTM):
        """The same update, so the same gates."""

    with pytest.raises(UserError, match=r"gate I has shape \(1, .*, expected"):
        memory.gates_along(network_of(Short), [1, 2])
    with pytest.raises(UserError, match="Other has no gates"):
        memory.gates_along(network_of(Other), [1, 2])
    for cell in (Named, Same):
        assert [*memory.gates_along(network_of(cell), [1, 2])] == ["I", "F", "O", "C"]


@pytest.mark.slow
def test_probe_targets_are_whole_numbers_and_columns_are_numbered():
    adding = Adding()
    assert list(memory.labels_of(adding, examples_of(adding))) == ["sum in tenths"]
    several = Adding()
    several.probe_targets = lambda examples: {"symbol": np.zeros((5, 3), int)}
    assert list(memory.labels_of(several, examples_of(adding))) == [
        "symbol 1", "symbol 2", "symbol 3"
    ]  # fmt: skip
    for wrong in (examples_of(adding).targets, np.arange(3, dtype=np.int32)):
        adding.probe_targets = lambda examples, wrong=wrong: {"sum": wrong}
        with pytest.raises(UserError, match=f"target sum is {wrong.dtype} of shape"):
            memory.labels_of(adding, examples_of(adding))
    with pytest.raises(UserError, match="go from -1 to 3"):
        memory.number_of_classes(np.array([-1, 3]))


class Mean(nnx.Module):
    """No cell of the family."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)

    def __call__(self, inputs, mask):
        seen = jnp.cumsum(self.linear(inputs) * mask[..., None], axis=1)
        return jnp.tanh(seen)


def a_sweep(lengths=(3, 5), seeds=(0, 1), **settings):
    """A sweep of small networks, and parameters that stand for trained ones."""
    settings = {"hidden_size": 6, "embedding_size": 5, "multiplicity": 1} | settings
    config = SweepConfig(lengths=lengths, seeds=seeds, experiment=ExperimentConfig(**settings))
    program = program_of(config)
    networks = [
        parameters_of(new_network(program, jax.random.key(n + 7)))
        for n in range(len(config.experiments))
    ]
    parameters = jax.tree.map(lambda *arrays: np.stack(arrays), *networks)
    return config, program, {"best": parameters, "last": parameters}


@pytest.fixture(scope="module")
def sweep():
    return a_sweep()


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def found(sweep, told):
    config, _, trained = sweep
    return explain_variant(config, trained, np.zeros(4, bool), report=lambda *n: told.append(n))


def test_networks_are_examined_with_the_data_of_their_experiments(sweep, found, told):
    config, program, trained = sweep
    tests, _ = draw_tests(config, config.experiments)
    scores = evaluate_experiments(program, trained["best"], tests, found.length)
    assert found.accuracy[1].tolist() == scores.accuracy.tolist()
    assert found.unseen[np.arange(4), [0, 0, 1, 1]].tolist() == scores.accuracy.tolist()
    assert told[-1] == (4 * 5, 4 * 5) and told == sorted(told)
    first = map_experiments(first_parameters, *np.array(config.experiments).T, given=(program,))
    start = evaluate_experiments(program, first, tests, found.length)
    assert found.accuracy[0].tolist() == start.accuracy.tolist()


def first_parameters(program, length, seed):
    from srn_jax.training.experiment import initial_parameters
    from srn_jax.training.program import hyperparameters_of

    return initial_parameters(program, seed, length, hyperparameters_of(program.config))


@pytest.mark.slow
def test_some_networks_are_examined_as_they_are_among_others(sweep, found):
    config, _, trained = sweep
    fewer = explain_variant(config, trained, np.array([False, True, False, False]))
    assert (fewer.left_out, fewer.seed.tolist()) == (1, [0, 0, 1])
    for name in ("readout", "gradient", "product"):
        kept = getattr(found, name)[:, [0, 2, 3]]
        assert np.array_equal(getattr(fewer, name), kept, equal_nan=True)
    short = explain_variant(config, trained, np.zeros(4, bool), lengths=[3])
    assert (short.length.tolist(), short.tested.tolist(), short.left_out) == ([3, 3], [3], 0)
    assert np.array_equal(short.readout, found.readout[:, :2, :, :3])
    with pytest.raises(UserError, match="every experiment diverged"):
        explain_variant(config, trained, np.ones(4, bool))
    with pytest.raises(UserError, match="`lengths`: the run has no length 4, it has 3, 5"):
        explain_variant(config, trained, np.zeros(4, bool), lengths=[4])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "family"),
    [
        ({"task": Adding, "cell": "gru"}, True),
        ({"task": EveryPosition, "cell": "lstm"}, True),
        ({"cell": Mean}, False),
        ({"layers": 2}, False),
        ({"bidirectional": True}, False),
    ],
    ids=["adding", "every position", "a module", "layers", "bidirectional"],
)
def test_other_tasks_cells_and_networks_are_examined_too(settings, family):
    config, program, trained = a_sweep((4,), **settings)
    found = explain_variant(config, trained, np.zeros(2, bool))
    known = [found.gradient, found.jacobian, found.product]
    assert [bool(np.isnan(values).all()) for values in known] == [not family] * 3
    assert not np.isnan(found.readout).any()
    tests, _ = draw_tests(config, config.experiments)
    scores = evaluate_experiments(program, trained["best"], tests, found.length)
    assert found.accuracy[1] == approx(scores.accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(1,), (1, 2)])
def test_sequences_of_one_position_are_examined(lengths):
    def sequences(length):
        digits = np.arange(40)[:, None] % 10 * np.ones((1, length), np.int8)
        return Sequences(digits.astype(np.int16), (np.arange(40) % 19).astype(np.int32))

    config, _, trained = a_sweep(lengths)
    files = {length: Splits(*[sequences(length)] * 3) for length in lengths}
    found = explain_variant(config, trained, np.zeros(len(lengths) * 2, bool), files)
    one = found.length == 1
    assert np.isnan(found.product[:, one]).all() and not np.isnan(found.gradient[:, one, 0]).any()
    assert found.product[:, ~one] == approx(np.zeros_like(found.product[:, ~one]), abs=1e-6)
