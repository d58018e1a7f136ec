"""The cells are the textbook's and the frameworks', and causal, and padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax import GRU, LSTM, SRN, Cell, Network, ResidualSRN, UserError
from srn_jax.cells.recurrence import output
from srn_jax.config import RECURRENT_INITS
from srn_jax.tasks import Adding, DigitSum
from srn_jax.tasks.task import PADDING
from srn_jax.training.model import parameters_of


class Restless(Cell):
    """Maps (0, 0) to something else, so that padding by zeros would change its answers."""

    gates = 2

    def update(self, x, h, state):
        z = jax.nn.sigmoid(x[..., 0, :] + h[..., 0, :])
        return z * state + (1 - z) * jnp.cos(x[..., 1, :] * h[..., 1, :])


OURS = [SRN, ResidualSRN, LSTM, GRU]
by_any_cell = pytest.mark.parametrize("kind", [*OURS, Restless], ids=lambda kind: kind.__name__)
W, U, b = [[0.1, 0.2], [0.1, 0.2]], [[0.0, 0.1], [0.1, 0.0]], [[0.1, 0.1]]


def of_gates(kind, value):
    """The same value for each gate."""
    return jnp.tile(jnp.asarray(value), kind.gates)


def worked(kind, inputs, **more):
    cell = kind(
        2,
        2,
        rngs=nnx.Rngs(0),
        W=of_gates(kind, W),
        U=of_gates(kind, U),
        b=of_gates(kind, b),
        **more,
    )
    return np.asarray(cell(jnp.asarray([inputs]))[0, -1])


class Rectified(SRN):
    def update(self, x, h, state):
        return jax.nn.relu(x + h)[..., 0, :]


class Coupled(LSTM):
    def update(self, x, h, state):
        forget, o = (jax.nn.sigmoid((x + h)[..., n, :]) for n in (1, 2))
        c = forget * state[1] + (1 - forget) * jnp.tanh((x + h)[..., 3, :])
        return o * jnp.tanh(c), c


class Leaning(SRN):
    def update(self, x, h, state):
        return 0.5 * (state + super().update(x, h, state))


class Mixin:
    update = Rectified.update


class Mixed(Mixin, SRN):
    pass


class Later(Rectified):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [Rectified, Coupled, Leaning, Mixed, Later], ids=lambda kind: kind.__name__
)
def test_an_update_of_its_own_is_what_a_subclass_does_and_not_its_parents_step(kind):
    cell, inputs = kind(3, 4, rngs=nnx.Rngs(0)), inputs_of(2, 5, 3)

    def plain(U):
        state = jnp.zeros((2, 4)) if kind.states == 1 else (jnp.zeros((2, 4)),) * 2
        for t in range(5):
            x, h = inputs[:, t] @ cell.W[...] + cell.b[...], output(state) @ U
            state = cell.update(*(side.reshape(2, kind.gates, 4) for side in (x, h)), state)
        return output(state)

    def ours(U):
        given = {"W": cell.W[...], "U": U, "b": cell.b[...]}
        return kind(3, 4, rngs=nnx.Rngs(0), **given)(inputs)[:, -1]

    U = cell.U[...]
    np.testing.assert_allclose(ours(U), plain(U), atol=1e-6)
    found, wanted = (jax.grad(lambda U, f=f: f(U).sum())(U) for f in (ours, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not kind.rests and not kind.gate_values(None, None, None)


def test_a_cell_alone_takes_what_becomes_its_weights_type_and_names_its_initialisers():
    cell, inputs = SRN(3, 4, rngs=nnx.Rngs(0)), inputs_of(2, 5, 3)
    whole = jnp.ones((2, 5, 3), jnp.int32)
    assert (cell(whole) == cell(whole.astype(jnp.float32))).all()
    assert cell(inputs.astype(jnp.bfloat16)).dtype == jnp.float32
    mask = [[False, True, True, True, True]]
    assert (cell(np.asarray(inputs, np.float64), mask) == cell(inputs, jnp.array(mask))).all()
    with pytest.raises(UserError, match="recurrent_init must be one of xavier, orthogonal"):
        SRN(3, 4, rngs=nnx.Rngs(0), recurrent_init="foo")


@pytest.mark.parametrize("kind", [SRN, GRU], ids=lambda kind: kind.__name__)
def test_a_network_of_another_type_has_gradients_of_that_type(kind):
    network = Network(DigitSum(), kind, 5, 4, rngs=nnx.Rngs(0))
    definition, state = nnx.split(network)
    half = nnx.merge(definition, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    gradients = nnx.grad(lambda network: network(jnp.array([[1, 2, 3]])).sum())(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}


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


def test_a_gru_by_hand_with_the_reset_gate_after_the_product():
    c = jnp.array([[0.3, -0.2]])

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h = np.zeros(2)
    for inputs in ([1.0, 0.0], [0.0, 2.0]):
        x, g = np.array(inputs) @ np.array(W) + b[0], h @ np.array(U) + np.asarray(c[0])
        gate = sigmoid(x + g)  # r and z have the same weights here
        h = (1 - gate) * np.tanh(x + gate * g) + gate * h
    found = worked(GRU, [[1.0, 0.0], [0.0, 2.0]], c=of_gates(GRU, c))
    assert found == pytest.approx(h, abs=1e-6)


def flax_cell(kind, parameters, input_size, hidden_size):
    """The cell of Flax with these parameters; gates i, f, a, o in its LSTM.

    Its GRU is of the same form as ours, the reset gate after the product, but for the recurrent
    bias, which it has in its documentation and not in its code: c must be zero.
    """
    made = {
        SRN: lambda: nnx.SimpleCell(
            input_size, hidden_size, activation_fn=jnp.tanh, rngs=nnx.Rngs(1)
        ),
        LSTM: lambda: nnx.OptimizedLSTMCell(input_size, hidden_size, rngs=nnx.Rngs(1)),
        GRU: lambda: nnx.GRUCell(input_size, hidden_size, rngs=nnx.Rngs(1)),
    }[kind]()
    order = {SRN: [0], LSTM: [0, 1, 3, 2], GRU: [0, 1, 2]}[kind]

    def ordered(array):
        gates = jnp.split(array, kind.gates, axis=1)
        return jnp.concatenate([gates[n] for n in order], axis=1)

    weights, recurrent, bias = map(ordered, parameters)
    definition, state = nnx.split(made)
    pure = nnx.to_pure_dict(state)
    pure["dense_i"] |= {"kernel": weights}
    pure["dense_h"] |= {"kernel": recurrent}
    first, *others = [name for name in ("dense_i", "dense_h") if "bias" in pure[name]]
    pure[first] |= {"bias": bias[0]}
    for name in others:  # older versions have two in the SRN
        pure[name] |= {"bias": jnp.zeros_like(bias[0])}
    nnx.replace_by_pure_dict(state, pure)
    return nnx.merge(definition, state)


@pytest.mark.parametrize("kind", [SRN, LSTM, GRU], ids=lambda kind: kind.__name__)
def test_flax_own_cells_agree_in_values_and_gradients(kind):
    cell, inputs = kind(4, 6, rngs=nnx.Rngs(0)), inputs_of(3, 9, 4)
    outside = inputs_of(3, 9, 6, seed=1)
    zero = {"c": jnp.zeros((1, 18))} if kind is GRU else {}

    def ours(parameters, inputs):
        W, U, b = parameters
        return kind(4, 6, rngs=nnx.Rngs(0), W=W, U=U, b=b, **zero)(inputs)

    def theirs(parameters, inputs):
        return nnx.RNN(flax_cell(kind, parameters, 4, 6))(inputs)

    def value_and_gradients(function, *arguments):
        def scalar(*arguments):
            states = function(*arguments)
            return jnp.sum(states * outside), states

        gradients, states = jax.grad(scalar, argnums=(0, 1), has_aux=True)(*arguments)
        return states, gradients

    parameters = cell.W[...], cell.U[...], cell.b[...]
    with jax.default_matmul_precision("highest"):  # Flax does not ask a GPU for it
        one, other = (
            jax.jit(value_and_gradients, static_argnums=0)(f, parameters, inputs)
            for f in (ours, theirs)
        )
    assert_close(jax.tree.leaves(one), jax.tree.leaves(other))


def assert_close(ones, others, tolerance=1e-6):
    for one, other in zip(ones, others, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        scale = max(1.0, np.abs(one).max())  # float32: relative to its size
        assert one.shape == other.shape
        assert np.abs(one - other).max() < tolerance * scale


@pytest.mark.needs_torch
@pytest.mark.parametrize("kind", [SRN, LSTM, GRU], ids=lambda kind: kind.__name__)
def test_pytorchs_own_cells_agree_in_values_and_gradients(kind):
    torch = pytest.importorskip("torch")
    cell, inputs = kind(4, 6, rngs=nnx.Rngs(0)), np.asarray(inputs_of(3, 9, 4))
    outside = np.asarray(inputs_of(3, 9, 6, seed=1))
    module = {SRN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}[kind]
    rnn = module(4, 6, batch_first=True)
    order = {SRN: [0], LSTM: [0, 1, 3, 2], GRU: [0, 1, 2]}[kind]  # its own inverse
    names = {"W": "weight_ih_l0", "U": "weight_hh_l0", "b": "bias_ih_l0", "c": "bias_hh_l0"}
    parameters = parameters_of(cell)

    def rows(columns):
        gates = np.split(np.asarray(columns).T, kind.gates)
        return np.concatenate([gates[n] for n in order])

    with torch.no_grad():
        rnn.bias_hh_l0.zero_()
        for name, array in parameters.items():
            theirs = getattr(rnn, names[name])
            theirs.copy_(torch.tensor(rows(array)).reshape(theirs.shape))
    given = torch.tensor(inputs, requires_grad=True)
    states = rnn(given)[0]
    (states * torch.tensor(outside)).sum().backward()

    def scalar(parameters, inputs):
        states = kind(4, 6, rngs=nnx.Rngs(0), **parameters)(inputs)
        return jnp.sum(states * outside), states

    (gradients, to_inputs), ours = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(
        parameters, jnp.asarray(inputs)
    )
    assert_close([ours, to_inputs], [states.detach(), given.grad])
    for name, gradient in gradients.items():
        theirs = getattr(rnn, names[name]).grad.numpy()
        assert_close([rows(gradient)], [theirs.reshape(rows(gradient).shape)])


@by_any_cell
def test_later_inputs_never_change_earlier_states(kind):
    cell, inputs = kind(3, 4, rngs=nnx.Rngs(0)), inputs_of(1, 6, 3)
    jacobian = jax.jit(jax.jacobian(lambda x: cell(x)[0]))(inputs)  # [time, D, 1, time, M]
    depends = np.abs(np.asarray(jacobian)).max(axis=(1, 2, 4)) > 0  # [state, input]
    assert (depends == np.tri(6, dtype=bool)).all()


@by_any_cell
def test_padding_changes_no_answer_and_no_gradient(kind):
    network = Network(DigitSum(), kind, 5, 7, rngs=nnx.Rngs(0))
    definition, state = nnx.split(network)
    digits = jax.random.randint(jax.random.key(0), (6, 9), 0, 10)
    padded = jnp.pad(digits, ((0, 0), (5, 0)), constant_values=PADDING)
    mask = jnp.arange(14)[None] >= 5

    @jax.jit
    def answers_and_gradient(digits, mask):
        def loss(state):
            answers = nnx.merge(definition, state)(digits, mask)
            return jnp.sum(answers**2), answers

        gradient, answers = jax.grad(loss, has_aux=True)(state)
        return answers, jax.tree.leaves(gradient)

    (plain, gradient), (other, other_gradient) = (
        answers_and_gradient(*arguments) for arguments in ((digits, None), (padded, mask))
    )
    assert_close([plain], [other], 1e-6)
    if jax.default_backend() == "cpu":
        assert (np.asarray(plain) == np.asarray(other)).all()
    assert_close(gradient, other_gradient, 1e-5)


def test_padded_vectors_change_no_answer_either():
    network = Network(Adding(), Restless, 5, 7, rngs=nnx.Rngs(0))
    vectors = inputs_of(6, 9, 2)
    padded = jnp.pad(vectors, ((0, 0), (4, 0), (0, 0)), constant_values=3.0)
    answers = network(padded, jnp.arange(13)[None] >= 4)
    assert np.asarray(answers) == pytest.approx(np.asarray(network(vectors)), abs=1e-6)


@pytest.mark.parametrize("kind", [SRN, LSTM, Restless], ids=lambda kind: kind.__name__)
def test_the_initial_state_is_used_and_zero_unless_given(kind):
    cell, inputs = kind(4, 6, rngs=nnx.Rngs(0)), inputs_of(5, 2, 4)
    weight = cell.W[...]
    all_states = cell.scan(inputs, weight)
    first = jax.tree.map(lambda states: states[1], all_states)
    rest = cell.scan(inputs[2:], weight, None, first)
    assert_close([output(rest)], [output(all_states)[2:]])
    zero = jax.tree.map(jnp.zeros_like, first)
    given = cell(jnp.swapaxes(inputs, 0, 1), initial_state=zero)
    assert (given == cell(jnp.swapaxes(inputs, 0, 1))).all()


@pytest.mark.parametrize("kind", [SRN, LSTM, Restless], ids=lambda kind: kind.__name__)
def test_a_mask_makes_sequences_of_different_lengths_one_batch(kind):
    cell, inputs = kind(4, 6, rngs=nnx.Rngs(0)), inputs_of(2, 5, 4)
    mask = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
    states = cell(inputs, mask)
    assert_close([states[1, -1]], [cell(inputs[1:, :3])[0, -1]])


def test_given_parameters_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"U has shape \(2, 3\), expected \(3, 3\)"):
        SRN(2, 3, rngs=nnx.Rngs(0), U=jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"W has shape \(2, 3\), expected \(2, 12\)"):
        LSTM(2, 3, rngs=nnx.Rngs(0), W=jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="SRN has no recurrent bias c"):
        SRN(2, 3, rngs=nnx.Rngs(0), c=jnp.zeros((1, 3)))


def test_the_forget_bias_is_added_to_the_forget_gates_alone():
    plain, forgetful = (LSTM(4, 6, rngs=nnx.Rngs(0), forget_bias=bias) for bias in (0.0, 1.0))
    added = np.asarray(forgetful.b[...] - plain.b[...])
    assert added[0] == pytest.approx(np.repeat([0, 1, 0, 0], 6), abs=1e-6)
    assert (plain.W[...] == forgetful.W[...]).all() and (plain.U[...] == forgetful.U[...]).all()


@pytest.mark.parametrize("kind", [SRN, GRU], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", RECURRENT_INITS)
def test_recurrent_initialisations_of_each_gate_are_what_they_are_called(kind, name):
    cell = kind(4, 24, rngs=nnx.Rngs(0), recurrent_init=name)
    blocks = np.split(np.asarray(cell.U[...]), kind.gates, axis=1)
    for block in blocks:
        if name == "identity":
            assert (np.eye(24) == block).all()
        elif name == "orthogonal":
            assert pytest.approx(np.eye(24), abs=1e-5) == block @ block.T
        else:
            limit = np.sqrt(6 / 48) if name == "xavier" else 1 / np.sqrt(24)
            assert 0.95 * limit < np.abs(block).max() <= limit
    if name != "identity":
        assert len({block.tobytes() for block in blocks}) == kind.gates


def test_the_gates_of_figures_are_those_of_the_formula():
    x, h, state = inputs_of(3, 24), inputs_of(3, 24, seed=1), tuple(inputs_of(2, 3, 6, seed=2))
    gates = LSTM.gate_values(x, h, state)
    new_h, new_c = LSTM.plain_step(x, h, state)
    assert list(gates) == ["I", "F", "O", "C"]
    assert_close([gates["C"], gates["O"] * jnp.tanh(gates["C"])], [new_c, new_h])
    a = jnp.tanh((x + h)[:, 18:])
    assert_close([gates["F"] * state[1] + gates["I"] * a], [new_c])
    x, h, state = x[:, :18], h[:, :18], state[0]
    gates = GRU.gate_values(x, h, state)
    assert list(gates) == ["R", "Z"]
    n = jnp.tanh(x[:, 12:] + gates["R"] * h[:, 12:])
    assert_close([(1 - gates["Z"]) * n + gates["Z"] * state], [GRU.plain_step(x, h, state)])
    assert SRN.gate_values(x, h, state) == {}


def test_a_cell_without_an_update_says_so():
    with pytest.raises(UserError, match="Empty: no method update"):
        type("Empty", (Cell,), {})(2, 3, rngs=nnx.Rngs(0))(inputs_of(1, 2, 2))


def test_a_network_that_is_called_eagerly_is_compiled_once(caplog):
    """A loop over time that is compiled at every call takes a hundred times as long."""
    networks = [Network(DigitSum(), Restless, 5, 7, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    digits = jax.random.randint(jax.random.key(0), (3, 11), 0, 10)

    def compiled(network):
        caplog.clear()
        with jax.log_compiles():
            network(digits)
        return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]

    assert any("recurrence" in message for message in compiled(networks[0]))
    assert compiled(networks[0]) == compiled(networks[1]) == []
