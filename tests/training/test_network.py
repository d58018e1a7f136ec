"""A network answers as its parts say, padded, stacked, read backward or given wrongly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax.cells import GRU, SRN
from srn_jax.errors import UserError
from srn_jax.tasks import Adding, DigitSum, Task, Tokens
from srn_jax.training.network import Network


class Everywhere(Task):
    inputs, outputs, answers = Tokens(7), 3, None


class Many(Task):
    inputs, outputs = Tokens(300), 2  # too many to fold


class Module(nnx.Module):
    """A cell of another family: a running mean of its inputs through a layer."""

    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)

    def __call__(self, inputs, mask):
        kept = jnp.where(mask[..., None], self.linear(inputs), 0)
        return jnp.cumsum(kept, axis=1)


def made(task, cell=SRN, **more):
    return Network(task, cell, 5, 4, rngs=nnx.Rngs(0), **more)


def tokens_of(task, batch=3, time=6):
    if isinstance(task.inputs, Tokens):
        return jax.random.randint(jax.random.key(1), (batch, time), 0, task.inputs.vocabulary)
    return jax.random.normal(jax.random.key(1), (batch, time, task.inputs.size))


FORMS = [{}, {"layers": 2}, {"bidirectional": True}, {"layers": 2, "bidirectional": True}]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("cell", [SRN, GRU, Module], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "task", [DigitSum(), Everywhere(), Adding(), Many()], ids=lambda t: type(t).__name__
)
def test_padding_changes_no_answer_and_lengths_may_differ(task, cell, form):
    network, inputs = made(task, cell, **form), tokens_of(task)
    alone = [network(inputs[n : n + 1, n:]) for n in range(3)]  # 6, 5 and 4 positions
    lengths = jnp.array([6, 5, 4])
    mask = jnp.arange(9)[None] >= 9 - lengths[:, None]
    padded = jnp.pad(inputs, [(0, 0), (3, 0), *[(0, 0)] * (inputs.ndim - 2)])
    together = network(padded, mask)
    plain = network(padded, mask, plain=True)
    for n, answer in enumerate(alone):
        found = together[n, -answer.shape[1] :] if task.answers is None else together[n]
        np.testing.assert_allclose(found, answer[0], atol=2e-5)
    if cell is not Module:
        asked = jnp.ones(together.shape) if task.answers == 1 else mask[..., None]
        np.testing.assert_allclose(plain * asked, together * asked, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_all_states_give_the_answers_that_the_last_give(form):
    network, tokens = made(DigitSum(), GRU, **form), tokens_of(DigitSum())
    np.testing.assert_allclose(network.answer(network.states(tokens)), network(tokens), atol=1e-6)


def test_a_backward_layer_reads_from_the_end_and_joins_both_ends():
    network, tokens = made(DigitSum(), bidirectional=True), tokens_of(DigitSum())
    vectors = network.embedding(tokens)
    ahead, back = network.cell(vectors)[:, -1], network.cell_back(vectors[:, ::-1])[:, -1]
    joined = network.output(jnp.concatenate([ahead, back], axis=-1))
    np.testing.assert_allclose(network(tokens), joined, atol=1e-6)
    bound = float(jnp.max(jnp.abs(network.output.kernel[...])))
    assert network.output.kernel.shape == (8, 19) and bound <= 8**-0.5


def test_a_second_layer_reads_the_states_of_the_first():
    network, tokens = made(DigitSum(), layers=2), tokens_of(DigitSum())
    top = network.cell_2(network.cell(network.embedding(tokens)))[:, -1]
    np.testing.assert_allclose(network(tokens), network.output(top), atol=1e-6)


def test_looking_up_is_a_product_with_one_hot_rows():
    embedding, tokens = made(DigitSum()).embedding, tokens_of(DigitSum())
    np.testing.assert_allclose(embedding(tokens), embedding.by_one_hot(tokens), atol=1e-6)


def test_forward_mode_agrees_with_reverse_mode_on_the_plain_recurrence():
    network, inputs = made(Adding(), GRU), tokens_of(Adding())

    def total(inputs, plain):
        return jnp.sum(network(inputs, plain=plain) ** 2)

    forward = jax.jacfwd(lambda inputs: total(inputs, True))(inputs)
    np.testing.assert_allclose(forward, jax.grad(lambda i: total(i, False))(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "mask", "words"),
    [
        ([[1, 10]], None, "from 0 to 9, got 10"),
        ([[-1, 1]], None, "from 0 to 9, got -1"),
        ([[0.5, 1]], None, "got float64"),
        ([1, 2], None, r"must be \[batch, time\]"),
        (np.zeros((2, 0), int), None, "not empty"),
        ([[1, 2], [1]], None, "lists of equal lengths"),
        ([[1, 2]], [[True]], "`mask` must be booleans"),
    ],
)
def test_wrong_inputs_are_one_line(inputs, mask, words):
    with pytest.raises(UserError, match=words):
        made(DigitSum())(inputs, mask)


def test_a_module_that_returns_other_states_is_told_so():
    class Short(Module):
        def __call__(self, inputs, mask):
            return super().__call__(inputs, mask)[:, -1]

    with pytest.raises(UserError, match=r"Short returns \(3, 4\), expected states"):
        made(DigitSum(), Short)(tokens_of(DigitSum()))
