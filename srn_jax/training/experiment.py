"""Training of ONE experiment as pure functions; nothing here knows that there are others.

Block i takes the steps up to and including the i-th evaluation step, and then evaluates.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from srn_jax import kernels
from srn_jax.tasks.batches import Batches, cut_to, whole_set
from srn_jax.tasks.task import Dataset, Examples, mask_of
from srn_jax.training.data import ExperimentData, at, batch_of, begun, data_of, keys_of, orders_of
from srn_jax.training.histories import Histories, empty_histories, with_block
from srn_jax.training.network import Parameters, network_with, new_network, parameters_of
from srn_jax.training.optimizer import clip, new_optimizer
from srn_jax.training.probes import LOSS, Step, record, recorded_names
from srn_jax.training.program import Hyperparameters, Program


class TrainState(NamedTuple):
    """All that training changes, apart from the histories."""

    parameters: Parameters
    optimizer: optax.OptState
    best_parameters: Parameters
    best_score: jax.Array  # scalar float32: an accuracy, starts at 0; or -loss, starts at -inf
    best_step: jax.Array  # scalar int32: of the evaluation that gave the best parameters, or -1
    diverged: jax.Array  # scalar bool: a number was not finite; the experiment is frozen


class Scores(NamedTuple):
    """How good answers to a set of examples are, scalars."""

    loss: Any  # the mean over batches of the batches' losses
    accuracy: Any  # the share of right answers
    sequences: Any  # the share of sequences of which all answers are right


def initial_parameters(program, seed, length, hyper) -> Parameters:
    """The parameters of an experiment before its first step."""
    return parameters_of(new_network(program, keys_of(seed, length)[1], hyper))


def begin(program: Program, seed, length, hyper) -> tuple[TrainState, Histories]:
    """State and histories of an experiment before its first step."""
    parameters = initial_parameters(program, seed, length, hyper)
    optimizer = new_optimizer(program, hyper).init(parameters)
    score = jnp.float32(0 if program.task.better == "accuracy" else -jnp.inf)
    best = parameters, score, jnp.int32(-1)
    state = TrainState(parameters, optimizer, *best, diverged=jnp.array(False))
    return state, empty_histories(program, recorded_names(program.probes, parameters))


def prepare(
    program: Program, width: int, seed, length, hyper: Hyperparameters, files: Dataset | None = None
) -> tuple[TrainState, Histories, ExperimentData]:
    """An experiment at its start, which depends on its seed, its length and its settings alone.

    `width` is what sequences are padded to, and `files` its data, where they are not drawn.
    """
    data = data_of(program, width, seed, length, hyper, files)
    return *begin(program, seed, length, hyper), data


def weighted_loss(program, parameters, batch: Batches, mask=None) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the losses of a batch, and the network's answers."""
    outputs = network_with(program, parameters)(jnp.asarray(batch.inputs), mask)
    return jnp.sum(batch.weights * program.task.loss(outputs, batch.targets)), outputs


def train_step(program: Program, hyper, parameters, optimizer, batch: Batches, mask=None):
    """One update by one batch `[batch, ...]`: parameters, the optimizer, and what is recorded."""
    value_and_gradient = jax.value_and_grad(weighted_loss, argnums=1, has_aux=True)
    (loss, _), gradient = value_and_gradient(program, parameters, batch, mask)
    clipped = clip(program.config, hyper, gradient)
    updates, optimizer = new_optimizer(program, hyper).update(clipped, optimizer, parameters)
    recorded = record(program.probes, Step(loss, gradient, updates, parameters))
    vector, unravel = ravel_pytree(parameters)  # one sum, and not one of each tensor
    return unravel(vector + ravel_pytree(updates)[0]), optimizer, recorded


def evaluate(program: Program, parameters: Parameters, examples: Examples, mask=None) -> Scores:
    """How good the network's answers to a set of examples are."""
    batch = whole_set(examples, program.config.batch_size, program.config.loss_reduction)
    loss, outputs = weighted_loss(program, parameters, batch, begun(batch, mask))
    counts = jnp.asarray(program.task.counts(examples.targets, examples.weights))
    right = program.task.correct(outputs, examples.targets) & counts
    accuracy = jnp.sum(right, dtype=jnp.float32) / jnp.sum(counts, dtype=jnp.float32)
    whole = jnp.all((right | ~counts).reshape(len(right), -1), axis=1)
    return Scores(loss, accuracy, jnp.mean(whole, dtype=jnp.float32))


def put(array: jax.Array, value: jax.Array, place: jax.Array) -> jax.Array:
    """An array `[place, ...]` with a value at a place that is known to be one of its own."""
    update = jax.lax.dynamic_update_index_in_dim
    return update(array, value, place, 0, allow_negative_indices=False)


def take_steps(
    program: Program, width: int, padded: bool, data: ExperimentData, block, parameters, optimizer
) -> tuple[Parameters, optax.OptState, dict[str, jax.Array]]:
    """Parameters and optimizer after a block's steps, and what is recorded by name, `[place]`.

    Sequences have `width` positions; some may be `padded`. NaN is recorded behind a block's end.
    """
    mask = mask_of(data.length, width)[None] if padded else None
    if data.train is not None:
        data = data._replace(train=cut_to(data.train, program.task, width))
    first, last = (jnp.asarray(ends)[block] for ends in (program.starts, program.eval_steps))
    with jax.named_scope("training_steps"):  # by which the benchmark's cost models find it
        if program.kernel and kernels.applies(program, data.train):
            bounds = first, last + 1
            trained = kernels.train_block(program, data, mask, parameters, optimizer, *bounds)
            return *trained[:2], {LOSS: trained[2]}
        vector, unravel = ravel_pytree(parameters)
        epoch = first // program.steps_an_epoch
        orders = orders_of(program, data, epoch) if program.config.shuffle else None

        def step(number, carry):
            vector, optimizer, recorded = carry
            order = None if orders is None else at(orders, number - epoch * program.steps_an_epoch)
            batch = batch_of(program, data, number, width, order)
            parameters, optimizer, new = train_step(
                program, data.hyper, unravel(vector), optimizer, batch, begun(batch, mask)
            )
            recorded = {n: put(recorded[n], new[n], place=number - first) for n in new}
            return ravel_pytree(parameters)[0], optimizer, recorded

        nothing = jnp.full(program.places, jnp.nan, jnp.float32)
        recorded = dict.fromkeys(recorded_names(program.probes, parameters), nothing)
        carry = jax.lax.fori_loop(first, last + 1, step, (vector, optimizer, recorded))
    return unravel(carry[0]), *carry[1:]


def run_block(program: Program, widths, choice, data: ExperimentData, block, state, histories):
    """Block number `block`, unless the experiment has diverged; arguments as `advance`."""
    parameters, optimizer, recorded = jax.lax.switch(  # all but the steps is compiled once
        choice,
        [partial(take_steps, program, *width) for width in widths],
        *(data, block, state.parameters, state.optimizer),
    )
    whole, padded = widths[-1]
    mask = mask_of(data.length, whole)[None] if padded or len(widths) > 1 else None
    dev = evaluate(program, parameters, data.dev, mask)

    # Parameters, too: a row of a table that no batch reads can be NaN from the start.
    start, end = (jnp.asarray(ends)[block] for ends in (program.starts, program.eval_steps))
    taken = start + jnp.arange(program.places) <= end
    finite = jnp.isfinite(dev.loss) & jnp.all(jnp.isfinite(recorded[LOSS]) | ~taken)
    good = finite & jnp.all(jnp.isfinite(ravel_pytree(parameters)[0])) & ~state.diverged
    score = dev.accuracy if program.task.better == "accuracy" else -dev.loss
    improved = good & (score > state.best_score)

    def select(condition: jax.Array, *trees: Any) -> Any:
        return jax.tree.map(partial(jnp.where, condition), *trees)

    best = select(improved, (parameters, score, end), state[2:5])
    last = select(good, (parameters, optimizer), state[:2])
    new = TrainState(last[0], last[1], best[0], best[1], best[2], diverged=~good)
    # A diverged experiment is frozen as it was at its last good evaluation, but the history of the
    # block in which it diverged shows where it went wrong.
    recorded = select(state.diverged, dict.fromkeys(recorded, jnp.nan), recorded)
    evaluated = {"dev_loss": dev.loss, "dev_accuracy": dev.accuracy}
    evaluated = select(good, evaluated, dict.fromkeys(evaluated, jnp.nan))
    return new, with_block(program, histories, block, recorded, evaluated)


def advance(
    program: Program,
    widths: Sequence[tuple[int, bool]],
    choice,
    data,
    state,
    histories,
    first,
    last,
) -> tuple[TrainState, Histories]:
    """Run the blocks first <= block < last; a diverged experiment stays as it is.

    `widths` are positions at which it may run, and whether its sequences may be shorter; each is
    compiled, and the scalar `choice`, the same for all that run at once, is which it is.
    """
    block = partial(run_block, program, widths, choice, data)
    return jax.lax.fori_loop(first, last, lambda i, carry: block(i, *carry), (state, histories))
