"""The network is the textbook's, whatever its cell, and any module can be the cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax import SRN, Embedding, ExperimentConfig, Network, Task, Tokens, UserError, Vectors
from srn_jax.cells.loops import InPlace, Stacked
from srn_jax.config import CELLS
from srn_jax.tasks import Adding, DigitSum, Recall
from srn_jax.tasks.task import PADDING
from srn_jax.training.experiment import experiment_key
from srn_jax.training.model import (
    hyperparameters_of,
    network_with,
    new_network,
    options_of,
    parameters_of,
)

TASK = DigitSum()


class Tagger(Task):
    """Three answers a sequence, of vectors."""

    inputs = Vectors(4)
    outputs = 5
    answers = 3


def network_of(cell="srn", task=TASK, key=0, **settings):
    settings = {"embedding_size": 5, "hidden_size": 7} | settings
    return new_network(task, ExperimentConfig(cell=cell, **settings), jax.random.key(key))


def digits_of(*shape, seed=0):
    return jax.random.randint(jax.random.key(seed), shape, 0, 10)


def test_embedding_by_index_and_by_one_hot_are_equal():
    embedding = Embedding(10, 32, rngs=nnx.Rngs(0))
    digits = digits_of(4, 7)
    assert (embedding(digits) == embedding.by_one_hot(digits)).all()


@pytest.mark.parametrize("cell", CELLS)
def test_the_folded_input_side_equals_the_network_as_it_is_written(cell):
    network, digits = network_of(cell), digits_of(6, 9)
    plainly = network.output(network.cell(network.embedding(digits))[:, -1])
    assert np.asarray(network(digits)) == pytest.approx(np.asarray(plainly), abs=1e-6)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("form", [InPlace(), Stacked()], ids=repr)
def test_what_a_task_writes_into_padding_changes_nothing(cell, form):
    parameters, digits = parameters_of(network_of(cell)), digits_of(6, 5)
    config = ExperimentConfig(cell=cell, embedding_size=5, hidden_size=7)

    @jax.jit
    def gradient(parameters, inputs, mask):
        def total(parameters):
            return jnp.sum(network_with(TASK, config, parameters)(inputs, mask, form) ** 2)

        return jax.grad(total)(parameters)

    padded = jnp.pad(digits, [(0, 0), (3, 0)], constant_values=7)
    ours = gradient(parameters, padded, (jnp.arange(8) >= 3)[None])
    plain = gradient(parameters, digits, None)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_several_answers_are_those_of_the_last_positions():
    network = network_of("gru", Tagger())
    vectors = jax.random.normal(jax.random.key(0), (6, 9, 4))
    answers = network(vectors)
    assert answers.shape == (6, 3, 5)
    for back in range(3):
        shorter = network(vectors[:, : 9 - back])[:, -1]
        assert np.asarray(answers[:, 2 - back]) == pytest.approx(np.asarray(shorter), abs=1e-6)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([[0, 10]], "from 0 to 9, got 10"),
        ([[0, -1]], "from 0 to 9, got -1"),
        ([[0.5, 1.0]], "got float"),
        ([[10**12, 2]], "got 1000000000000"),
        (np.array([[2**32 + 1]]), "got 4294967297"),
        ([[10**30, 2]], "got object"),
        ([["3", "4"]], "got <U1"),
        ([[3, 4], [0]], "must be an array, or lists of equal lengths"),
    ],
)
def test_tokens_out_of_range_are_refused(tokens, says):
    with pytest.raises(UserError, match=says):
        network_of()(tokens)


@pytest.mark.parametrize(
    ("task", "inputs", "says"),
    [
        (Recall(), [[1, 2]], "at least 3 positions, since the last 3 are answered, got 2"),
        (Adding(), np.zeros((1, 6, 3)), r"must be \[batch, time, 2\] .* got shape \(1, 6, 3\)"),
        (Adding(), np.zeros((1, 6, 2), complex), "must be real numbers, got complex"),
        (Adding(), [[["a", "b"]]], "must be real numbers, got <U1"),
    ],
)
def test_inputs_that_a_task_does_not_have_are_refused(task, inputs, says):
    network = network_of(task=task)
    with pytest.raises(UserError, match=says):
        network(inputs)
    if np.asarray(inputs).dtype.kind != "U":  # shapes and kinds are known inside a program too
        with pytest.raises(UserError, match=says):
            jax.eval_shape(network, jnp.asarray(inputs))


@pytest.mark.parametrize("dtype", [int, np.float64, jnp.bfloat16])
def test_vectors_of_any_real_numbers_are_taken(dtype):
    network, vectors = network_of(task=Adding()), np.eye(2)[None]
    assert (network(vectors.astype(dtype)) == network(jnp.asarray(vectors, jnp.float32))).all()


@pytest.mark.parametrize(
    "mask", [[[1, 1, 1]], [True] * 5, [[True] * 5] * 3, [[0.5] * 5], [[True] * 5, [True]]]
)
def test_a_mask_of_another_shape_or_kind_is_refused(mask):
    with pytest.raises(UserError, match=r"^mask must be "):
        network_of()(digits_of(2, 5), mask)


def test_padding_is_no_token_unless_a_mask_says_so():
    network, digits = network_of(), np.array([[PADDING, 3, 4]])
    mask = np.array([[False, True, True]])
    for same in (mask, mask.tolist(), [[0, 1, 1]]):
        assert (network(digits, same) == network(digits[:, 1:])).all()


def many_networks(cell):
    config = ExperimentConfig(cell=cell)
    keys = jax.random.split(jax.random.key(0), 100)
    return jax.jit(jax.vmap(lambda key: parameters_of(new_network(TASK, config, key))))(keys)


@pytest.mark.parametrize(("cell", "gates"), [("srn", 1), ("gru", 3)])
def test_initial_parameters_have_the_textbooks_distributions(cell, gates):
    """Xavier uniform, each gate on a shape of its own; the output layer as PyTorch's."""
    many = many_networks(cell)
    limits = {
        ("embedding", "table"): np.sqrt(6 / 42),
        ("cell", "W"): np.sqrt(6 / 64),
        ("cell", "U"): np.sqrt(6 / 64),
        ("cell", "b"): np.sqrt(6 / 33),
        ("output", "kernel"): 1 / np.sqrt(32),
        ("output", "bias"): 1 / np.sqrt(32),
    }
    if cell == "gru":
        limits["cell", "c"] = np.sqrt(6 / 33)
    drawn = [(module, name) for module in many for name in many[module]]
    assert sorted(drawn) == sorted(limits)
    for (module, name), limit in limits.items():
        for values in np.split(
            np.asarray(many[module][name]), gates if module == "cell" else 1, -1
        ):
            assert np.abs(values).max() <= limit
            quantiles = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9]) / limit
            assert quantiles == pytest.approx([-0.8, -0.5, 0, 0.5, 0.8], abs=0.06)


class PassesOn(SRN):
    def __init__(self, *sizes, rngs, **options):
        super().__init__(*sizes, rngs=rngs, **options)


class Named(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs, forget_bias=0.0, **others):
        pass


@pytest.mark.parametrize(
    ("cell", "taken"),
    [
        (SRN, ["recurrent_init", "forget_bias"]),
        (PassesOn, ["recurrent_init", "forget_bias"]),
        (Named, ["forget_bias"]),
        (nnx.SimpleCell, []),
    ],
)
def test_a_cell_gets_the_settings_of_initial_weights_that_it_takes(cell, taken):
    assert options_of(cell) == taken


def test_an_experiment_draws_the_same_whatever_jax_draws_with():
    def drawn():
        return jax.random.key_data(experiment_key(3, 5)).tolist()

    usual = drawn()
    with jax.default_prng_impl("rbg"):
        assert drawn() == usual


@pytest.mark.slow
def test_the_initialiser_and_the_forget_bias_can_be_data():
    """Under one `vmap`, with all initialisers in the program: the same draws to the bit."""
    inits = ("orthogonal", "xavier", "identity")
    settings = [
        ExperimentConfig(
            cell="lstm", hidden_size=6, embedding_size=6, recurrent_init=name, forget_bias=bias
        )
        for name, bias in zip(inits, (0.0, 1.0, 2.0), strict=True)
    ]
    hyper = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(hyperparameters_of, settings))
    key = jax.random.key(4)

    def draw(hyper):
        return parameters_of(new_network(TASK, settings[0].program, key, hyper, inits))

    together = jax.jit(jax.vmap(draw))(hyper)
    for row, config in enumerate(settings):
        alone = parameters_of(new_network(TASK, config, key))
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            assert np.asarray(one) == pytest.approx(np.asarray(other[row]), abs=1e-6)


@pytest.mark.parametrize(
    ("cell", "task"),
    [*((cell, TASK) for cell in CELLS), ("srn", Adding()), ("lstm", Recall())],
)
def test_a_network_is_the_same_after_its_parameters_were_taken_out_and_put_back(cell, task):
    network, inputs = network_of(cell, task), task.draw(jax.random.key(0), 3, 6, 6).inputs
    config = ExperimentConfig(cell=cell, embedding_size=5, hidden_size=7)
    again = network_with(task, config, parameters_of(network))
    assert (again(inputs) == network(inputs)).all()


class FlaxLSTM(nnx.Module):
    """A module that is not of the family: Flax's own, as a README would wrap it."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(input_size, hidden_size, rngs=rngs))

    def __call__(self, inputs, mask):
        return self.rnn(jnp.where(mask[..., None], inputs, 0))


class Transposed(FlaxLSTM):
    def __call__(self, inputs, mask):
        return jnp.swapaxes(super().__call__(inputs, mask), 0, 1)


@pytest.mark.parametrize("task", [TASK, Adding()], ids=["tokens", "vectors"])
def test_any_module_can_be_the_cell(task):
    network = Network(task, FlaxLSTM, 5, 7, rngs=nnx.Rngs(0))
    inputs = task.draw(jax.random.key(0), 3, 6, 6).inputs
    vectors = network.embedding(inputs) if task is TASK else inputs
    expected = network.output(network.cell.rnn(vectors)[:, -1])
    assert np.asarray(network(inputs)) == pytest.approx(np.asarray(expected), abs=1e-6)
    mask = np.arange(6)[None] > 0  # [1, time] becomes [batch, time] for a module of one's own
    assert network(inputs, mask).shape == (3, task.outputs)


def test_a_module_that_returns_another_shape_is_refused():
    network = Network(TASK, Transposed, 5, 7, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"Transposed returns \(6, 3, 7\), expected .* \(3, 6, 7\)"):
        network(digits_of(3, 6))


def test_a_network_takes_a_vocabulary_and_a_class_of_cell_as_they_are():
    class Wide(Task):
        inputs = Tokens(300)
        outputs = 2

    network = Network(Wide(), SRN, 5, 7, rngs=nnx.Rngs(0))
    assert network(np.array([[299, 0, 17]])).shape == (1, 2)
