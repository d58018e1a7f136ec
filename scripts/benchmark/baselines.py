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

from benchmark.pytorch_steps import pytorch_program
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import experiment_key
from srn_jax.tasks.digit_sum import PADDING, draw_dataset, to_batches
from srn_jax.training.model import DigitSumClassifier, new_classifier, parameters_of

FORWARD_LENGTH = 20


def jax_experiment(config: SweepConfig, contender: str, steps: int) -> tuple[Any, Any, Any]:
    """`train(state, data)` of all experiments side by side, and its arguments.

    `flax-rnn` is `nnx.RNN(SimpleCell)`; `plain-scan` a `lax.scan` of one cell. Both look digits up
    by index, project every position, and leave the backward pass to autodiff.
    """
    apply = {"flax-rnn": flax_logits, "plain-scan": plain_logits}[contender]
    optimizer = optax.adam(config.experiment.learning_rate)
    width = max(config.lengths)

    def loss(parameters, digits, labels, weights):
        logits = apply(parameters, digits)
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
        dataset = draw_dataset(data_key, length, config.experiment.multiplicity, width)
        parameters = parameters_of(new_classifier(config.experiment, parameter_key))
        batches = to_batches(dataset.train, config.experiment.batch_size)
        if contender == "flax-rnn":
            batches = batches._replace(digits=padded_on_the_right(batches.digits))
        return (parameters, optimizer.init(parameters)), batches

    lengths, seeds = np.array(config.experiments, np.uint32).T
    state, data = jax.jit(jax.vmap(start))(lengths, seeds)
    return jax.vmap(train), state, data


def plain_logits(parameters: Any, digits: jax.Array) -> jax.Array:
    """Logits by a scan over positions; padded positions keep the state."""
    srn, mask = parameters["srn"], (digits != PADDING).T
    inputs = parameters["embedding"]["table"][digits.T] @ srn["W"] + srn["b"]

    def cell(state, step):
        x, keep = step
        return jnp.where(keep[:, None], jnp.tanh(x + state @ srn["U"]), state), None

    start = jnp.zeros((digits.shape[0], srn["U"].shape[0]))
    last, _ = jax.lax.scan(cell, start, (inputs, mask))
    return last @ parameters["output"]["kernel"] + parameters["output"]["bias"]


def flax_logits(parameters: Any, digits: jax.Array) -> jax.Array:
    """Logits by Flax's own RNN of digits that are padded on the right."""
    srn = parameters["srn"]
    size_in, size = srn["W"].shape
    cell = nnx.SimpleCell(size_in, size, activation_fn=jnp.tanh, rngs=nnx.Rngs(0))
    definition, state = nnx.split(cell)
    pure = nnx.to_pure_dict(state)
    pure["dense_i"] |= {"kernel": srn["W"]}
    pure["dense_h"] |= {"kernel": srn["U"]}
    biased = "dense_i" if "bias" in pure["dense_i"] else "dense_h"
    pure[biased] |= {"bias": srn["b"][0]}
    nnx.replace_by_pure_dict(state, pure)
    rnn = nnx.RNN(nnx.merge(definition, state), return_carry=True)

    lengths = jnp.sum(digits != PADDING, axis=1)
    last, _ = rnn(parameters["embedding"]["table"][digits], seq_lengths=lengths)
    return last @ parameters["output"]["kernel"] + parameters["output"]["bias"]


def padded_on_the_right(digits: jax.Array) -> jax.Array:
    """Digits `[..., time]` that were padded on the left."""
    order = jnp.argsort(digits == PADDING, axis=-1, stable=True)
    return jnp.take_along_axis(digits, order, axis=-1)


def compiled(module: Any) -> Callable[[jax.Array], jax.Array]:
    """The call of a module as one compiled function."""
    definition, state = nnx.split(module)
    run = jax.jit(lambda state, inputs: nnx.merge(definition, state)(inputs))
    return lambda inputs: run(state, inputs)


def forward_passes(size: int) -> dict[str, Callable[[], object]]:
    """One forward pass over a batch of 8 sequences, by hand and built in, compiled where JAX is."""
    inputs = np.random.default_rng(0).normal(size=(8, FORWARD_LENGTH, size)).astype(np.float32)
    srn = DigitSumClassifier(size, size, rngs=nnx.Rngs(0)).srn
    rnn = nnx.RNN(nnx.SimpleCell(size, size, activation_fn=jnp.tanh, rngs=nnx.Rngs(0)))
    by_hand, built_in = compiled(srn), compiled(rnn)
    on_device = jnp.asarray(inputs)
    passes: dict[str, Callable[[], object]] = {
        "srn_jax SRN": lambda: jax.block_until_ready(by_hand(on_device)),
        "flax.nnx.RNN": lambda: jax.block_until_ready(built_in(on_device)),
    }
    if importlib.util.find_spec("torch") is None:
        print("left out: PyTorch is not installed", file=sys.stderr)
        return passes
    import torch

    program, tensor = pytorch_program(), torch.tensor(inputs)
    hand_written, own = program.SRN(size, size), program.BuiltInRNN(size, size)
    return passes | {
        "PyTorch by hand": lambda: hand_written(tensor),
        "torch.nn.RNN": lambda: own(tensor),
    }
