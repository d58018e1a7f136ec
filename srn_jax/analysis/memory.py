"""Why a network forgets: gradients through time, Jacobians, and what its states still hold.

Everything here is a pure function of ONE network and its sequences. The state s_t of a cell of the
family is all that it carries on, `[S * D]`: an LSTM's is h_t and c_t, one after the other. Of other
modules, several layers or two directions only the hidden states are known, so there are no
gradients or Jacobians.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.cells import Cell
from srn_jax.cells.recurrence import apply_update, gates_of_array, product, recurrent_side
from srn_jax.errors import UserError
from srn_jax.tasks.task import Array, Examples, Task, mask_of
from srn_jax.training.network import Network, network_with
from srn_jax.training.program import Program

# Added to the variances within a class, in units of a state's mean variance. From 1e-6 to 1e-2 the
# mean accuracy of a readout of the last state moved by at most 0.015 over 64 trained SRN, LSTM and
# GRU at lengths 25 and 35, and that of the answer less the network's own accuracy by 0.005.
RIDGE = 1e-4
MOST_CLASSES = 1000  # among which a readout chooses
SHOWN = 8  # test sequences along which Jacobians are taken
SMALLEST = float(np.finfo(np.float32).tiny)  # a singular value of 0 is shown as this


class Material(NamedTuple):
    """What a network is examined with; labels are whole numbers `[target, example]`."""

    train: Examples
    test: Examples
    train_labels: Any
    shuffled_labels: Any  # of training, in another order
    test_labels: Any


def analyse(program: Program, classes: int, parameters: Any, given: Material) -> dict[str, Any]:
    """All that is asked of one network, as the fields of `explanation.Explanation`.

    `right` and `asked` are of the test sequences' answers; `gradient` is the root mean square norm
    of dL/ds_t over sequences; `jacobian` and `product` are means over sequences of the decadic
    logarithms of singular values of ds_t/ds_{t-1} for t = 2, 3, ..., and of ds_T/ds_2.
    """
    task, test, test_labels = program.task, given.test, given.test_labels
    network = network_with(program, parameters)
    states_of: Any = unroll if is_family(network) else Network.states
    train_states, states = (states_of(network, x.inputs, begun(x)) for x in given[:2])
    mask, time = begun(test), len(states)
    if is_family(network):
        answers = network.answer(states[..., : network.hidden_size])
    else:
        answers = network(jnp.asarray(test.inputs), mask)
    counts = jnp.asarray(task.counts(test.targets, test.weights))
    right = jnp.sum(task.correct(answers, test.targets) & counts)
    number = jnp.sum(jax.nn.one_hot(given.train_labels, classes), axis=1)
    guessed = test_labels == jnp.argmax(number, axis=1)[:, None]
    read = partial(readout_accuracy, classes=classes)
    over_time = jax.vmap(read, in_axes=(0, None, 0, None), out_axes=1)  # every position
    found = {
        "right": right,
        "asked": jnp.sum(counts),
        "chance": jnp.mean(guessed, axis=1, dtype=jnp.float32),
        "is_answer": jnp.stack([jnp.array_equal(its, test.targets) for its in test_labels]),
        "readout": over_time(train_states, given.train_labels, states, test_labels),
        "shuffled": over_time(train_states, given.shuffled_labels, states, test_labels),
        "gradient": jnp.full(time, jnp.nan),
        "jacobian": jnp.full((time - 1, 1), jnp.nan),
        "product": jnp.full(1, jnp.nan),
    }
    if not is_family(network):
        return found
    mask = jnp.ones(states.shape[1::-1], bool) if mask is None else mask
    found["gradient"] = root_mean_square_norm(gradient_through_time(task, network, test), mask.T)
    if time > 1:  # sequences are spread over the test set, which may be in order
        some = np.linspace(0, len(test.inputs) - 1, min(SHOWN, len(test.inputs))).astype(int)
        each = jacobians(network, test.inputs[some], mask[some])
        whole, scale = product_of(each[1:])
        grown, last = (
            jnp.log10(jnp.maximum(singular_values(part), SMALLEST)) for part in (each, whole)
        )
        moved = jnp.broadcast_to(mask.T[:-1, some, None], each.shape[:3])
        found["jacobian"] = jnp.mean(grown, axis=1, where=moved)
        found["product"] = jnp.mean(last + scale[:, None], axis=0)
    return found


def is_family(network: Any) -> bool:
    """Whether all that a network carries on is the state of a single cell of the family."""
    return isinstance(network.cell, Cell) and network.cells == (("cell",),)


def begun(examples: Examples) -> jax.Array | None:
    """Where sequences have begun, `[batch, time]`; None where all fill their width."""
    lengths = examples.lengths
    return None if lengths is None else mask_of(lengths[:, None], examples.inputs.shape[1])


def input_side(network: Any, inputs: Any) -> jax.Array:
    """The input side x_t W + b of every position, time-major: `[time, batch, gates * D]`."""
    vectors = jnp.asarray(inputs)
    if getattr(network, "embedding", None) is not None:
        vectors = network.embedding(jnp.maximum(vectors, 0))  # whatever padding is
    side = network.cell.project(vectors.reshape(-1, vectors.shape[-1]))
    return jnp.swapaxes(side.reshape(*vectors.shape[:2], -1), 0, 1)


def sides_of(cell: Cell, x: jax.Array, state: jax.Array) -> tuple[Any, Any, Any]:
    """The input side x, h U + c and the state, of flat arrays, as `Cell.update` takes them."""
    parts = tuple(jnp.split(state, cell.states, axis=-1))
    whole = parts[0] if cell.states == 1 else parts
    c = cell.c[...] if cell.recurrent_bias else None
    return gates_of_array(x, cell.gates), recurrent_side(whole, cell.U[...], c, cell.gates), whole


def transition(cell: Cell, x: jax.Array, state: jax.Array) -> jax.Array:
    """The state `[..., S * D]` after `state`, given the input side x `[..., gates * D]`."""
    after = apply_update(type(cell), *sides_of(cell, x, state))
    return jnp.concatenate(after, axis=-1) if isinstance(after, tuple) else after


def unroll(network: Any, inputs: Any, mask: Any = None, added: Any = 0.0) -> jax.Array:
    """The states `[time, batch, S * D]`, `added` to each; one stays where a mask is False."""
    side = input_side(network, inputs)
    shape = (*side.shape[:2], network.cell.states * network.hidden_size)
    keep = jnp.ones(shape[:2], bool) if mask is None else mask.T

    def step(state, arrives):
        x, more, keep = arrives
        state = jnp.where(keep[:, None], transition(network.cell, x, state), state) + more
        return state, state

    along = side, jnp.broadcast_to(jnp.asarray(added, side.dtype), shape), keep
    return jax.lax.scan(step, jnp.zeros(shape[1:], side.dtype), along)[1]


def gradient_through_time(task: Task, network: Any, examples: Examples) -> jax.Array:
    """dL/ds_t `[time, batch, S * D]`, L being the loss of each sequence by itself."""
    mask = begun(examples)

    def total(added):
        states = unroll(network, examples.inputs, mask, added)
        losses = task.loss(network.answer(states[..., : network.hidden_size]), examples.targets)
        weights = jnp.asarray(1.0 if examples.weights is None else examples.weights)
        weights = jnp.broadcast_to(weights, losses.shape).reshape(len(losses), -1)
        whole, losses = jnp.sum(weights, axis=1), losses.reshape(weights.shape)
        return jnp.sum(jnp.sum(weights * losses, axis=1) / jnp.where(whole > 0, whole, 1))

    return jax.grad(total)(jnp.zeros_like(unroll(network, examples.inputs)))


def root_mean_square_norm(vectors: jax.Array, known: jax.Array) -> jax.Array:
    """The norms of `[time, batch, S * D]` where known `[time, batch]`, without underflow."""
    largest = jnp.max(jnp.abs(vectors), axis=(1, 2), keepdims=True)
    scaled = vectors / jnp.where(largest > 0, largest, 1)
    squares = jnp.mean(jnp.sum(scaled**2, axis=2), axis=1, where=known)
    return largest[:, 0, 0] * jnp.sqrt(squares)


def jacobians(network: Any, inputs: Any, mask: Any = None) -> jax.Array:
    """ds_t/ds_{t-1} for t = 2, 3, ...: `[time - 1, batch, S * D, S * D]`."""
    side, states = input_side(network, inputs), unroll(network, inputs, mask)
    one = jax.jacfwd(partial(transition, network.cell), argnums=1)
    each = jax.vmap(jax.vmap(one))(side[1:], states[:-1])
    moves = True if mask is None else mask.T[1:, :, None, None]
    return jnp.where(moves, each, jnp.eye(each.shape[-1], dtype=each.dtype)[None, None])


def product_of(each: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The product of Jacobians `[time, batch, S * D, S * D]`, the last one leftmost.

    With entries up to 1, and the decadic logarithm of what it is to be multiplied with, `[batch]`:
    over many steps it would leave the range of float32.
    """

    def step(carry, jacobian):
        so_far = product(jacobian, carry[0])
        largest = jnp.max(jnp.abs(so_far), axis=(1, 2))
        largest = jnp.where(largest > 0, largest, 1)
        return (so_far / largest[:, None, None], carry[1] + jnp.log10(largest)), None

    start = jnp.broadcast_to(jnp.eye(each.shape[-1], dtype=each.dtype), each.shape[1:])
    return jax.lax.scan(step, (start, jnp.zeros(len(start), each.dtype)), each)[0]


def singular_values(matrices: jax.Array) -> jax.Array:
    """Singular values, largest first: `[..., size, size]` -> `[..., size]`.

    Those that drown in the rounding of the largest are shown as that rounding. One matrix after
    another: LAPACK deals a batch out to threads, and where each core of a CPU is a device, these
    wait for each other for ever.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    values = jax.lax.map(partial(jnp.linalg.svd, compute_uv=False), flat)
    values = values.reshape(matrices.shape[:-1])
    return jnp.maximum(values, jnp.finfo(values.dtype).eps * values[..., :1])


def readout_accuracy(
    train: jax.Array, train_labels: Any, test: jax.Array, test_labels: Any, classes: int
) -> jax.Array:
    """Share of test labels that the best linear readout of the states gets right, `[target]`.

    The readout is linear discriminant analysis (Fisher 1936), a solution in closed form: with
    class means m_k, shares p_k and the covariance C within classes it answers the k with the
    largest x C^-1 m_k - m_k C^-1 m_k / 2 + log p_k. Regression on one-hot targets would be
    linear too, but misses classes that lie between others on a line, as sums do. States are
    `[example, features]`, labels `[target, example]`, whole numbers below `classes`.
    """
    centre = jnp.mean(train, axis=0, keepdims=True)
    scale = jnp.sqrt(jnp.mean((train - centre) ** 2))
    scale = jnp.where(scale > 0, scale, 1)
    train, test = (train - centre) / scale, (test - centre) / scale
    number, features = train.shape
    total = product(train.T, train) / number
    ridge = RIDGE * jnp.eye(features, dtype=train.dtype)

    def one(labels, right):
        is_class = jax.nn.one_hot(labels, classes, dtype=train.dtype)
        share = jnp.mean(is_class, axis=0)[:, None]
        means = product(is_class.T, train) / jnp.maximum(number * share, 1)
        within = total - product(means.T, share * means) + ridge
        # A positive definite matrix needs no pivots, and elimination none of LAPACK's threads.
        table = jnp.concatenate([within, means.T], axis=1)
        weights = jax.lax.fori_loop(0, features, eliminate, table)[:, features:]
        bias = jnp.log(share[:, 0]) - jnp.sum(means.T * weights, axis=0) / 2
        answers = jnp.argmax(product(test, weights) + bias[None], axis=1)
        return jnp.mean(answers == right, dtype=jnp.float32)

    def eliminate(n, table):
        row = table[n] / table[n, n]
        return (table - table[:, n, None] * row[None]).at[n].set(row)

    return jax.vmap(one)(train_labels, test_labels)


def labels_of(task: Task, examples: Examples) -> dict[str, Array]:
    """What the task wants to be looked for, `[example]` each; raises `UserError` if it cannot."""
    found: dict[str, Array] = {}
    for name, values in task.probe_targets(examples).items():
        shape, dtype = jnp.shape(values), jnp.result_type(values)
        if shape[:1] != examples.targets.shape[:1] or not jnp.issubdtype(dtype, jnp.integer):
            wanted = "whole numbers [example] (see probe_targets of the task)"
            raise UserError(f"probe target {name} is {dtype} of shape {shape}, expected {wanted}")
        columns = jnp.reshape(values, (shape[0], -1)).T
        names = [f"{name} {n + 1}" for n in range(len(columns))]
        found |= zip(names if len(names) > 1 else [name], columns, strict=True)
    return found


def number_of_classes(*labels: Array) -> int:
    """How many classes there are in labels `[..., target, example]`; raises `UserError`."""
    low, high = min(np.min(some) for some in labels), max(np.max(some) for some in labels)
    if low < 0 or high >= MOST_CLASSES:
        wanted = f"whole numbers from 0 to {MOST_CLASSES - 1} (see probe_targets of the task)"
        raise UserError(f"probe targets go from {low} to {high}, expected {wanted}")
    return int(high) + 1


def gates_along(network: Any, tokens: Sequence[int]) -> dict[str, np.ndarray]:
    """The gates by name along one sequence, `[D, time]` each; raises `UserError` if it has none."""
    cell, inputs, both = network.cell, jnp.asarray(tokens)[None], ("gate_values", "update")
    named = [name for kind in type(cell).__mro__ for name in both if name in vars(kind)]
    if not is_family(network) or named[0] == "update":
        raise UserError(f"{type(cell).__name__} has no gates to show, leave out `gates`")
    side, states = input_side(network, inputs), unroll(network, inputs)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    values = cell.gate_values(*sides_of(cell, side, before))
    for name, gate in values.items():
        if jnp.shape(gate) != (wanted := (len(side), 1, network.hidden_size)):
            raise UserError(f"gate {name} has shape {jnp.shape(gate)}, expected {wanted}")
    return {name: np.asarray(gate[:, 0].T) for name, gate in values.items()}
