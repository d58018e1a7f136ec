"""The block kernel, interpreted, trains as autodiff and Optax do in float64."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srn_jax.kernels.block import Optimizer, Settings, run

BATCHES, BATCH, TIME, BEGINS = 4, 6, 5, 2
VOCABULARY, CLASSES, EMBEDDING, HIDDEN = 10, 19, 32, 16
FIRST, STEPS, PLACES = 2, 9, 11
RATE, NORM = 0.02, 0.1


class SRN:
    gates, states, recurrent_bias = 1, 1, False

    def update(self, x, h, state):
        return jnp.tanh(x[0] + h[0])


class LSTM:
    gates, states, recurrent_bias = 4, 2, False

    def update(self, x, h, state):
        i, f, o = (jax.nn.sigmoid(x[n] + h[n]) for n in range(3))
        c = f * state[1] + i * jnp.tanh(x[3] + h[3])
        return o * jnp.tanh(c), c


class GRU:
    gates, states, recurrent_bias = 3, 1, True

    def update(self, x, h, state):
        r, z = (jax.nn.sigmoid(x[n] + h[n]) for n in range(2))
        return (1 - z) * jnp.tanh(x[2] + r * h[2]) + z * state


class Strange:
    """Of a user: a mask and an input are what its pullback keeps, and h is not the state."""

    gates, states, recurrent_bias = 2, 2, False

    def update(self, x, h, state):
        memory = 0.9 * state[1] + jax.nn.relu(x[0] + h[0]) * h[1]
        return jnp.sin(memory) - 0.1 * x[1] * state[0], memory


def network(cell, dtype=np.float32):
    """Parameters `[gates, rows, columns]` by name."""
    generator = np.random.default_rng(1)
    gates, wide = cell.gates, (cell.gates, 1, HIDDEN)
    shapes = {"kernel": (1, CLASSES, HIDDEN), "table": (1, VOCABULARY, EMBEDDING)}
    shapes |= {"W": (gates, EMBEDDING, HIDDEN), "U": (gates, HIDDEN, HIDDEN), "b": wide}
    shapes |= {"c": wide} if cell.recurrent_bias else {}
    shapes |= {"bias": (1, 1, CLASSES)}
    return {
        name: (0.3 * generator.normal(size=shape)).astype(dtype) for name, shape in shapes.items()
    }


def batches():
    generator = np.random.default_rng(2)
    inputs = generator.integers(0, VOCABULARY, (BATCHES, BATCH, TIME)).astype(np.int8)
    inputs[..., :BEGINS] = -1
    targets = generator.integers(0, CLASSES, (BATCHES, BATCH))
    weights = generator.uniform(0.1, 0.3, (BATCHES, BATCH)).astype(np.float32)
    weights[-1, 3:] = 0  # of a last batch that is not full
    return inputs, targets, weights


def plain_loss(cell, network, inputs, targets, weights):
    """What the kernel does, as one would write it."""
    every = network["table"][0][inputs.T]  # [time, batch, embedding]

    def position(state, vectors):
        h = jax.tree.leaves(state)[0]
        x = tuple(vectors @ w + b for w, b in zip(network["W"], network["b"], strict=True))
        sides = tuple(h @ u for u in network["U"])
        if cell.recurrent_bias:
            sides = tuple(side + c for side, c in zip(sides, network["c"], strict=True))
        return cell().update(x, sides, state), None

    zero = jnp.zeros((BATCH, HIDDEN), every.dtype)
    start = zero if cell.states == 1 else (zero,) * cell.states
    state, _ = jax.lax.scan(position, start, every[BEGINS:])
    logits = jax.tree.leaves(state)[0] @ network["kernel"][0].T + network["bias"][0]
    return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def plain(cell, optimizer, dtype=np.float64):
    """Parameters and losses after the steps of the block, by autodiff and Optax."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        inputs, targets, weights = batches()
        parameters = jax.tree.map(jnp.asarray, network(cell, dtype))
        state, losses = optimizer.init(parameters), []
        step = jax.jit(jax.value_and_grad(lambda p, *batch: plain_loss(cell, p, *batch)))
        for number in np.arange(FIRST, FIRST + STEPS) % BATCHES:
            loss, g = step(parameters, inputs[number], targets[number], weights[number])
            updates, state = optimizer.update(g, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            losses.append(loss)
        return jax.tree.map(np.asarray, parameters), np.asarray(losses)
