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
from srn_jax.tasks.task import Array, Examples, Task
from srn_jax.training.network import Network, network_with
from srn_jax.training.program import Program

# Added to the variances within a class, in units of a state's mean variance. From 1e-6 to 1e-2 the
# mean accuracy of a readout of the last state moved by at most 0.015 over 64 trained SRN, LSTM and
# GRU at lengths 25 and 35, and that of the answer less the network's own accuracy by 0.005.
RIDGE = 1e-4
MOST_CLASSES = 1000  # among which a readout chooses
SHOWN = 8  # test sequences along which Jacobians are taken
SMALLEST = float(np.finfo(np.float32).tiny)  # a norm or singular value of 0 is shown as this


class Material(NamedTuple):
    """What a network is examined with; labels are whole numbers, one row for each target."""

    train: Examples
    test: Examples
    train_labels: Any  # [target, example]
    shuffled_labels: Any  # the same in another order
    test_labels: Any  # [target, example]


def analyse(
    program: Program, classes: int, parameters: Any, material: Material
) -> dict[str, jax.Array]:
    """All that is asked of one network.

    Args:
        program: task and configuration.
        classes: labels are 0..classes - 1.
        parameters: of the network.
        material: sequences of one length, or of several, padded.

    Returns:
        `right` and `asked`, scalars, of the test sequences' answers; `chance`, the accuracy of the
        commonest training label, and `is_answer`, whether it is what the network must answer,
        `[target]`; `readout` and `shuffled` `[target, time]`, see `readout_accuracy`; `gradient`
        `[time]`, the root mean square norm of dL/ds_t over sequences; `jacobian`
        `[time - 1, S * D]` and `product` `[S * D]`, decadic logarithms of singular values, largest
        first, means over sequences: of ds_t/ds_{t-1} for t = 2, 3, ..., and of ds_T/ds_2. The last
        three are NaN where only hidden states are known, and the last two at length 1.
    """
    task, test = program.task, material.test
    network = network_with(program, parameters)
    family = is_family(network)
    states_of: Any = unroll if family else Network.states
    train_states, test_states = (
        states_of(network, part.inputs, mask_of_examples(part)) for part in material[:2]
    )
    mask = mask_of_examples(test)
    if family:
        answers = network.answer(test_states[..., : network.hidden_size])
    else:
        answers = network(jnp.asarray(test.inputs), mask)
    right = task.correct(answers, test.targets)
    counts = jnp.asarray(task.counts(test.targets, test.weights))
    found = {"right": jnp.sum(right & counts), "asked": jnp.sum(counts)}
    labels = {"readout": material.train_labels, "shuffled": material.shuffled_labels}
    read = partial(readout_accuracy, classes=classes)
    over_time = jax.vmap(read, in_axes=(0, None, 0, None), out_axes=1)  # every position
    for name, train_labels in labels.items():
        found[name] = over_time(train_states, train_labels, test_states, material.test_labels)
    number = jnp.sum(jax.nn.one_hot(material.train_labels, classes), axis=1)
    guess = jnp.argmax(number, axis=1)[:, None]
    found["chance"] = jnp.mean(material.test_labels == guess, axis=1, dtype=jnp.float32)
    found["is_answer"] = jnp.stack(
        [jnp.array_equal(labels, test.targets) for labels in material.test_labels]
    )
    time, nothing = len(test_states), jnp.full(1, jnp.nan)
    found |= {"gradient": jnp.full(time, jnp.nan), "product": nothing}
    found["jacobian"] = jnp.full((time - 1, 1), jnp.nan)
    if family:
        begun = jnp.ones(test_states.shape[:2], bool) if mask is None else mask.T
        gradient = gradient_through_time(task, network, test)
        found["gradient"] = root_mean_square_norm(gradient, begun)
    if family and time > 1:
        # Spread over the test set, which may be in order.
        some = np.linspace(0, len(test.inputs) - 1, min(SHOWN, len(test.inputs))).astype(int)
        each = jacobians(network, test.inputs[some], None if mask is None else mask[some])
        moved = jnp.broadcast_to(begun[:-1, some, None], each.shape[:3])
        found["jacobian"] = jnp.mean(decades(singular_values(each)), axis=1, where=moved)
        whole, scale = product_of(each[1:])
        found["product"] = jnp.mean(decades(singular_values(whole)) + scale[:, None], axis=0)
    return found


def is_family(network: Any) -> bool:
    """Whether all that a network carries on is the state of a single cell of the family."""
    return isinstance(network.cell, Cell) and network.cells == (("cell",),)


def mask_of_examples(examples: Examples) -> jax.Array | None:
    """Where sequences have begun, `[batch, time]`; None where all fill their width."""
    if examples.lengths is None:
        return None
    width = examples.inputs.shape[1]
    return jnp.arange(width)[None] >= width - jnp.asarray(examples.lengths)[:, None]


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


def unroll(
    network: Any, inputs: Any, mask: jax.Array | None = None, added: jax.Array | None = None
) -> jax.Array:
    """The states, time-major, `[time, batch, S * D]`; `added`, of that shape, is added to each.

    A state stays where the mask `[batch, time]` is False.
    """
    side = input_side(network, inputs)
    size = network.cell.states * network.hidden_size
    if added is None:
        added = jnp.zeros((*side.shape[:2], size), side.dtype)

    def step(state, arrives):
        x, more, keep = arrives
        after = transition(network.cell, x, state)
        state = (after if keep is None else jnp.where(keep[:, None], after, state)) + more
        return state, state

    along = side, added, None if mask is None else mask.T
    return jax.lax.scan(step, jnp.zeros_like(added[0]), along)[1]


def gradient_through_time(task: Task, network: Any, examples: Examples) -> jax.Array:
    """dL/ds_t `[time, batch, S * D]`, L being the loss of each sequence by itself."""
    mask = mask_of_examples(examples)

    def total(added):
        states = unroll(network, examples.inputs, mask, added)
        losses = task.loss(network.answer(states[..., : network.hidden_size]), examples.targets)
        if losses.ndim == 1:
            return jnp.sum(losses)
        axes = tuple(range(1, losses.ndim))
        if examples.weights is None:
            return jnp.sum(jnp.mean(losses, axis=axes))
        weights = jnp.broadcast_to(examples.weights, losses.shape)
        whole = jnp.sum(weights, axis=axes)
        return jnp.sum(jnp.sum(weights * losses, axis=axes) / jnp.where(whole > 0, whole, 1))

    return jax.grad(total)(jnp.zeros_like(unroll(network, examples.inputs)))


def root_mean_square_norm(vectors: jax.Array, begun: jax.Array) -> jax.Array:
    """Root mean square of the norms of `[time, batch, S * D]` where `begun [time, batch]`.

    Without underflow.
    """
    largest = jnp.max(jnp.abs(vectors), axis=(1, 2), keepdims=True)
    scaled = vectors / jnp.where(largest > 0, largest, 1)
    squares = jnp.mean(jnp.sum(scaled**2, axis=2), axis=1, where=begun)
    return largest[:, 0, 0] * jnp.sqrt(squares)


def jacobians(network: Any, inputs: Any, mask: jax.Array | None = None) -> jax.Array:
    """ds_t/ds_{t-1} for t = 2, 3, ...: `[time - 1, batch, S * D, S * D]`."""
    side, states = input_side(network, inputs), unroll(network, inputs, mask)
    one = jax.jacfwd(partial(transition, network.cell), argnums=1)
    each = jax.vmap(jax.vmap(one))(side[1:], states[:-1])
    if mask is None:
        return each
    stays = jnp.broadcast_to(jnp.eye(each.shape[-1], dtype=each.dtype), each.shape)
    return jnp.where(mask.T[1:, :, None, None], each, stays)


def product_of(each: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The product of Jacobians `[time, batch, S * D, S * D]`, the last one leftmost.

    Returns it as `[batch, S * D, S * D]` with entries up to 1, and the decadic logarithm of what
    it is to be multiplied with, `[batch]`: over many steps it would leave the range of float32.
    """

    def step(carry, jacobian):
        so_far, scale = carry
        so_far = product(jacobian, so_far)
        largest = jnp.max(jnp.abs(so_far), axis=(1, 2))
        largest = jnp.where(largest > 0, largest, 1)
        return (so_far / largest[:, None, None], scale + jnp.log10(largest)), None

    batch, size = each.shape[1:3]
    start = jnp.broadcast_to(jnp.eye(size, dtype=each.dtype), (batch, size, size))
    return jax.lax.scan(step, (start, jnp.zeros(batch, each.dtype)), each)[0]


def singular_values(matrices: jax.Array) -> jax.Array:
    """Singular values, largest first: `[..., size, size]` -> `[..., size]`.

    Those that drown in the rounding of the largest are shown as that rounding. One matrix after
    another: LAPACK deals a batch out to threads, and where each core of a CPU is a device, these
    wait for each other for ever.
    """
    *batch, size, _ = matrices.shape
    one = partial(jnp.linalg.svd, compute_uv=False)
    values = jax.lax.map(one, matrices.reshape(-1, size, size)).reshape(*batch, size)
    return jnp.maximum(values, jnp.finfo(values.dtype).eps * values[..., :1])


def decades(values: jax.Array) -> jax.Array:
    """Decadic logarithms."""
    return jnp.log10(jnp.maximum(values, SMALLEST))


def readout_accuracy(
    train: jax.Array,
    train_labels: jax.Array,
    test: jax.Array,
    test_labels: jax.Array,
    classes: int,
) -> jax.Array:
    """Share of test labels that the best linear readout of the states gets right, `[target]`.

    The readout is linear discriminant analysis (Fisher 1936), a solution in closed form: with
    class means m_k, shares p_k and the covariance C within classes it answers the k with the
    largest x C^-1 m_k - m_k C^-1 m_k / 2 + log p_k. Regression on one-hot targets would be
    linear too, but misses classes that lie between others on a line, as sums do.

    Args:
        train: states, `[example, features]`.
        train_labels: `[target, example]`.
        test: states, `[example, features]`.
        test_labels: `[target, example]`.
        classes: labels are 0..classes - 1.
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
        weights = solve_positive(within, means.T)
        bias = jnp.log(share[:, 0]) - jnp.sum(means.T * weights, axis=0) / 2
        answers = jnp.argmax(product(test, weights) + bias[None], axis=1)
        return jnp.mean(answers == right, dtype=jnp.float32)

    return jax.vmap(one)(train_labels, test_labels)


def solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solve `matrix @ x = right` by elimination; a positive definite matrix needs no pivots.

    Many small ones are solved together, by elementwise operations (see `singular_values` for what
    is wrong with LAPACK here).
    """
    size = len(matrix)

    def eliminate(n, table):
        row = table[n] / table[n, n]
        return (table - table[:, n, None] * row[None]).at[n].set(row)

    table = jnp.concatenate([matrix, right], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, table)[:, size:]


def labels_of(task: Task, examples: Examples) -> dict[str, Array]:
    """What the task wants to be looked for, `[example]` each; several columns are numbered.

    Raises `UserError` for values that are not whole numbers, one or more for each example.
    """
    found: dict[str, Array] = {}
    told = task.probe_targets(examples)
    if not isinstance(told, dict):
        raise UserError(f"probe_targets gives {type(told).__name__}, expected arrays by name")
    for name, values in told.items():
        shape, dtype = jnp.shape(values), jnp.result_type(values)
        if shape[:1] != examples.targets.shape[:1] or not jnp.issubdtype(dtype, jnp.integer):
            raise UserError(
                f"probe target {name} is {dtype} of shape {shape}, expected whole numbers "
                "[example] (see probe_targets of the task)"
            )
        columns = jnp.reshape(values, (shape[0], -1))
        names = [f"{name} {n + 1}" for n in range(columns.shape[1])]
        found |= dict(zip(names if len(names) > 1 else [name], columns.T, strict=True))
    return found


def number_of_classes(*labels: Array) -> int:
    """How many classes there are in labels `[..., target, example]`; raises `UserError`."""
    low, high = min(np.min(some) for some in labels), max(np.max(some) for some in labels)
    if low < 0 or high >= MOST_CLASSES:
        raise UserError(
            f"probe targets go from {low} to {high}, expected whole numbers from 0 to "
            f"{MOST_CLASSES - 1} (see probe_targets of the task)"
        )
    return int(high) + 1


def has_gates(cell: Any) -> bool:
    """Whether a class of cells says what its gates are, of the `update` that it has."""
    owners = [
        name for kind in cell.__mro__ for name in ("gate_values", "update") if name in vars(kind)
    ]
    return issubclass(cell, Cell) and hasattr(cell, "gate_values") and owners[0] == "gate_values"


def gates_along(network: Any, tokens: Sequence[int]) -> dict[str, np.ndarray]:
    """The gates of a network by name along one sequence: `[D, time]` each.

    Raises `UserError` for a network that names no gates.
    """
    cell, inputs = network.cell, jnp.asarray(tokens)[None]
    if not (is_family(network) and has_gates(type(cell))):
        raise UserError(f"{type(cell).__name__} has no gates to show, leave out `gates`")
    side, states = input_side(network, inputs), unroll(network, inputs)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    values = cell.gate_values(*sides_of(cell, side, before))
    wanted = (side.shape[0], 1, network.hidden_size)
    for name, gate in values.items():
        if jnp.shape(gate) != wanted:
            raise UserError(f"gate {name} has shape {jnp.shape(gate)}, expected {wanted}")
    return {name: np.asarray(gate[:, 0].T) for name, gate in values.items()}
