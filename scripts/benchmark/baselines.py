"""Other ways to run the experiment in JAX, written as their users would write them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from srn_jax.cells import cell_class
from srn_jax.cells.recurrence import output
from srn_jax.config import SweepConfig
from srn_jax.tasks.task import PADDING
from srn_jax.training.data import keys_of
from srn_jax.training.experiment import prepare
from srn_jax.training.network import Network
from srn_jax.training.program import hyperparameters_of, program_of

FLAX: Any = {"srn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}


class FlaxNetwork(nnx.Module):
    """The textbook's network with Flax's own recurrent layer."""

    def __init__(self, program: Any, name: str, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(10, 32, rngs=rngs)
        self.rnn = nnx.RNN(FLAX[name](32, 32, rngs=rngs), return_carry=True)
        self.output = nnx.Linear(32, 19, rngs=rngs)

    def __call__(self, digits: jax.Array) -> jax.Array:
        """Logits `[batch, 19]` of digits `[batch, time]` that are padded on the right."""
        lengths = jnp.sum(digits != PADDING, axis=1)
        carry, _ = self.rnn(self.embedding(jnp.maximum(digits, 0)), seq_lengths=lengths)
        return self.output(carry[1] if isinstance(carry, tuple) else carry)  # (c, h) of an LSTM


class PlainNetwork(nnx.Module):
    """The same network as a `lax.scan` over positions, its backward pass left to autodiff."""

    def __init__(self, program: Any, name: str, rngs: nnx.Rngs):
        self.network = Network(program.task, cell_class(name), rngs=rngs)

    def __call__(self, digits: jax.Array) -> jax.Array:
        """Logits `[batch, 19]` of digits `[batch, time]`; padded positions keep the state."""
        own, cell = self.network, self.network.cell

        def position(state, inputs):
            vectors, here = inputs
            x = vectors @ cell.W[...] + cell.b[...]
            h = output(state) @ cell.U[...] + (cell.c[...] if cell.recurrent_bias else 0)
            new = cell.update(*(tuple(jnp.split(z, cell.gates, axis=-1)) for z in (x, h)), state)
            keep = (here != PADDING)[:, None]
            return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, state), None

        zero = jnp.zeros((len(digits), cell.U.shape[0]))
        start = zero if cell.states == 1 else (zero,) * cell.states
        inputs = own.embedding(jnp.maximum(digits.T, 0)), digits.T
        return own.output(output(jax.lax.scan(position, start, inputs)[0]))


def jax_experiment(config: SweepConfig, contender: str, steps: int) -> tuple[Any, Any, Any]:
    """`train(state, data)` of all experiments side by side, and its arguments."""
    program, hyper = program_of(config), hyperparameters_of(config.experiment)
    kind: Any = FlaxNetwork if contender == "flax-rnn" else PlainNetwork
    build = partial(kind, program, config.experiment.cell)
    optimizer = optax.adam(config.experiment.learning_rate)
    definition, _, rest = nnx.split(build(nnx.Rngs(0)), nnx.Param, ...)  # Flax's has a random state

    def loss(parameters, digits, labels, weights):
        others = jax.tree.map(lambda leaf: leaf, rest)  # new variables, of the present trace
        logits = nnx.merge(definition, parameters, others)(digits)
        return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def train(state, batches):
        def step(state, number):
            parameters, moments = state
            batch = jax.tree.map(lambda array: array[number % array.shape[0]], batches)
            value, gradient = jax.value_and_grad(loss)(parameters, *batch)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(parameters, updates), moments), value

        return jax.lax.scan(step, state, jnp.arange(steps))

    def start(length, seed):
        data = prepare(program, max(config.lengths), seed, length, hyper)[2].train
        parameters = nnx.split(build(nnx.Rngs(keys_of(seed, length)[1])), nnx.Param, ...)[1]
        digits = data.inputs
        if contender == "flax-rnn":  # whose sequences are padded on the right
            order = jnp.argsort(digits == PADDING, axis=-1, stable=True)
            digits = jnp.take_along_axis(digits, order, axis=-1)
        return (parameters, optimizer.init(parameters)), (digits, data.targets, data.weights)

    lengths, seeds = np.array(config.experiments, np.uint32).T
    state, data = jax.jit(jax.vmap(start))(lengths.astype(np.int32), seeds)
    return jax.vmap(train), state, data
