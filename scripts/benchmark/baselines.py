"""Other ways to run the experiment in JAX, written as their users would write them."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmark.pytorch_steps import pytorch_cells
from srn_jax.cells import cell_class
from srn_jax.cells.recurrence import output, reference_recurrence
from srn_jax.config import SweepConfig
from srn_jax.tasks.digit_sum import DigitSum
from srn_jax.tasks.task import PADDING, draw_dataset, to_batches
from srn_jax.training.experiment import experiment_key
from srn_jax.training.model import Network

FORWARD_LENGTH = 20
FLAX_CELLS: dict[str, Any] = {
    "srn": nnx.SimpleCell,
    "lstm": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
}


class FlaxNetwork(nnx.Module):
    """The textbook's network with Flax's own recurrent layer."""

    def __init__(self, cell: str, size: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(10, size, rngs=rngs)
        layer = FLAX_CELLS[cell](size, size, rngs=rngs)
        self.rnn = nnx.RNN(layer, return_carry=True)
        self.output = nnx.Linear(size, 19, rngs=rngs)

    def __call__(self, digits: jax.Array) -> jax.Array:
        """Logits `[batch, 19]` of digits `[batch, time]` that are padded on the right."""
        lengths = jnp.sum(digits != PADDING, axis=1)
        carry, _ = self.rnn(self.embedding(jnp.maximum(digits, 0)), seq_lengths=lengths)
        return self.output(carry[1] if isinstance(carry, tuple) else carry)  # (c, h) of an LSTM


class PlainNetwork(nnx.Module):
    """The same network as a `lax.scan` over positions, its backward pass left to autodiff."""

    def __init__(self, cell: str, size: int, *, rngs: nnx.Rngs):
        self.network = Network(DigitSum(), cell_class(cell), size, size, rngs=rngs)

    def __call__(self, digits: jax.Array) -> jax.Array:
        """Logits `[batch, 19]` of digits `[batch, time]`; padded positions keep the state."""
        own, cell = self.network, self.network.cell
        inputs = own.embedding(jnp.maximum(digits.T, 0))
        features = jnp.concatenate([inputs, jnp.ones((*digits.T.shape, 1))], axis=-1)
        weight = jnp.concatenate([cell.W[...], cell.b[...]])
        zero = jnp.zeros((len(digits), cell.U.shape[0]))
        start = zero if cell.states == 1 else (zero,) * cell.states
        bias = cell.c[...] if cell.recurrent_bias else None
        mask = (digits != PADDING).T
        states = reference_recurrence(type(cell), features, weight, cell.U[...], bias, start, mask)
        return own.output(output(states)[-1])


def jax_experiment(config: SweepConfig, contender: str, steps: int) -> tuple[Any, Any, Any]:
    """`train(state, data)` of all experiments side by side, and its arguments.

    `flax-rnn` is `nnx.RNN`; `plain-scan` a `lax.scan` of one cell. Both look digits up by index,
    project every position, and leave the backward pass to autodiff.
    """
    settings = config.experiment
    kind = {"flax-rnn": FlaxNetwork, "plain-scan": PlainNetwork}[contender]
    optimizer = optax.adam(settings.learning_rate)
    width = max(config.lengths)
    network = kind(settings.cell, settings.hidden_size, rngs=nnx.Rngs(0))
    definition, _, rest = nnx.split(network, nnx.Param, ...)  # Flax's RNN has a random state

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
        data_key, parameter_key = jax.random.split(experiment_key(seed, length))
        dataset = draw_dataset(DigitSum(), data_key, settings.multiplicity, length, width)
        network = kind(settings.cell, settings.hidden_size, rngs=nnx.Rngs(parameter_key))
        parameters = nnx.split(network, nnx.Param, ...)[1]
        batches = to_batches(dataset.train, settings.batch_size)
        if contender == "flax-rnn":
            batches = batches._replace(inputs=padded_on_the_right(batches.inputs))
        return (parameters, optimizer.init(parameters)), batches

    lengths, seeds = np.array(config.experiments, np.uint32).T
    state, data = jax.jit(jax.vmap(start))(lengths.astype(np.int32), seeds)
    return jax.vmap(train), state, data


def padded_on_the_right(digits: jax.Array) -> jax.Array:
    """Digits `[..., time]` that were padded on the left."""
    order = jnp.argsort(digits == PADDING, axis=-1, stable=True)
    return jnp.take_along_axis(digits, order, axis=-1)


def compiled(module: Any) -> Callable[[jax.Array], jax.Array]:
    """The call of a module as one compiled function."""
    definition, state = nnx.split(module)
    run = jax.jit(lambda state, inputs: nnx.merge(definition, state)(inputs))
    return lambda inputs: run(state, inputs)


def forward_passes(cell: str, size: int) -> dict[str, Callable[[], object]]:
    """One forward pass over a batch of 8 sequences, by hand and built in, compiled where JAX is."""
    inputs = np.random.default_rng(0).normal(size=(8, FORWARD_LENGTH, size)).astype(np.float32)
    own = cell_class(cell)(size, size, rngs=nnx.Rngs(0))
    rnn = nnx.RNN(FLAX_CELLS[cell](size, size, rngs=nnx.Rngs(0)))
    by_hand, built_in = compiled(own), compiled(rnn)
    on_device = jnp.asarray(inputs)
    passes: dict[str, Callable[[], object]] = {
        f"srn_jax {type(own).__name__}": lambda: jax.block_until_ready(by_hand(on_device)),
        "flax.nnx.RNN": lambda: jax.block_until_ready(built_in(on_device)),
    }
    if importlib.util.find_spec("torch") is None:
        print("left out: PyTorch is not installed", file=sys.stderr)
        return passes
    import torch

    tensor = torch.tensor(inputs)
    kinds = pytorch_cells(cell)
    hand_written, torchs_own = (kind(size, size) for kind in kinds)
    return passes | {
        "PyTorch by hand": lambda: hand_written(tensor),
        "PyTorch built in": lambda: torchs_own(tensor),
    }
