"""Training of ONE experiment as pure functions; nothing here knows that there are others.

An experiment runs in blocks: block i takes the steps up to and including the i-th evaluation step
and then evaluates on the development set. `advance` runs some blocks as one program.
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
from srn_jax.training.data import (
    ExperimentData,
    at,
    batch_of,
    data_of,
    keys_of,
    mask_for,
    orders_of,
    put,
)
from srn_jax.training.histories import Histories, empty_histories, with_block
from srn_jax.training.network import (
    Hyperparameters,
    Parameters,
    network_with,
    new_network,
    parameters_of,
)
from srn_jax.training.optimizer import clip, new_optimizer
from srn_jax.training.probes import LOSS, Step, record
from srn_jax.training.program import Program


class TrainState(NamedTuple):
    """All that training changes, apart from the histories."""

    parameters: Parameters
    optimizer: optax.OptState
    best_parameters: Parameters
    best_score: jax.Array  # scalar float32: an accuracy, starts at 0; or -loss, starts at -inf
    best_step: jax.Array  # scalar int32: the evaluation that gave the best parameters, or -1
    diverged: jax.Array  # scalar bool: a number was not finite; the experiment is frozen


class Scores(NamedTuple):
    """How good answers to a set of examples are, scalars."""

    loss: Any  # the mean over batches of the batches' losses
    accuracy: Any  # the share of right answers
    sequences: Any  # the share of sequences of which all answers are right


# The beginning.


def initial_parameters(
    program: Program, seed: jax.Array, length: jax.Array, hyper: Hyperparameters
) -> Parameters:
    """The parameters of an experiment before its first step."""
    return parameters_of(new_network(program, keys_of(seed, length)[1], hyper))


def prepare(
    program: Program,
    width: int,
    seed: jax.Array,
    length: jax.Array,
    hyper: Hyperparameters,
    files: Dataset | None = None,
) -> tuple[TrainState, Histories, ExperimentData]:
    """State and data of one experiment at its start, which depends on its seed and length alone.

    `width` is what sequences are padded to, `hyper` its own settings, and `files` its data, where
    they are not drawn.
    """
    data = data_of(program, width, seed, length, hyper, files)
    state = initial_state(program, hyper, initial_parameters(program, seed, length, hyper))
    return state, empty_histories(program, recorded_names(program, state.parameters)), data


def initial_state(program: Program, hyper: Hyperparameters, parameters: Parameters) -> TrainState:
    """The state before the first step, with the given parameters."""
    return TrainState(
        parameters=parameters,
        optimizer=new_optimizer(program, hyper).init(parameters),
        best_parameters=parameters,
        best_score=jnp.float32(0 if program.task.better == "accuracy" else -jnp.inf),
        best_step=jnp.int32(-1),
        diverged=jnp.array(False),
    )


def recorded_names(program: Program, parameters: Parameters) -> list[str]:
    """What is recorded of a step, by name."""
    step = Step(jnp.float32(0), parameters, parameters, parameters)
    return list(jax.eval_shape(partial(record, program.probes), step))


# A step, and an evaluation.


def weighted_loss(
    program: Program, parameters: Parameters, batch: Batches, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the losses of a batch, and the network's answers."""
    outputs = network_with(program, parameters)(jnp.asarray(batch.inputs), mask)
    return jnp.sum(batch.weights * program.task.loss(outputs, batch.targets)), outputs


def train_step(
    program: Program,
    hyper: Hyperparameters,
    parameters: Parameters,
    optimizer: optax.OptState,
    batch: Batches,
    mask: jax.Array | None = None,
) -> tuple[Parameters, optax.OptState, dict[str, jax.Array]]:
    """One update by one batch `[batch, ...]`; also what is recorded of it, by name."""
    value_and_gradient = jax.value_and_grad(weighted_loss, argnums=1, has_aux=True)
    (loss, _), gradient = value_and_gradient(program, parameters, batch, mask)
    clipped = clip(program.config, hyper, gradient)
    updates, optimizer = new_optimizer(program, hyper).update(clipped, optimizer, parameters)
    recorded = record(program.probes, Step(loss, gradient, updates, parameters))
    vector, unravel = ravel_pytree(parameters)  # one sum, and not one of each tensor
    return unravel(vector + ravel_pytree(updates)[0]), optimizer, recorded


def evaluate(
    program: Program, parameters: Parameters, examples: Examples, mask: jax.Array | None = None
) -> Scores:
    """How good the network's answers to a set of examples are."""
    config, task = program.config, program.task
    batch = whole_set(examples, config.batch_size, config.loss_reduction)
    mask = mask_for(batch, mask)
    loss, outputs = weighted_loss(program, parameters, batch, mask)
    counts = jnp.asarray(task.counts(examples.targets, examples.weights))
    right = task.correct(outputs, examples.targets) & counts
    accuracy = jnp.sum(right, dtype=jnp.float32) / jnp.sum(counts, dtype=jnp.float32)
    whole = jnp.all((right | ~counts).reshape(len(right), -1), axis=1)
    return Scores(loss, accuracy, jnp.mean(whole, dtype=jnp.float32))


# The blocks.


def take_steps(
    program: Program,
    width: int,
    padded: bool,
    data: ExperimentData,
    block: jax.Array,
    parameters: Parameters,
    optimizer: optax.OptState,
) -> tuple[Parameters, optax.OptState, dict[str, jax.Array]]:
    """The steps up to evaluation number `block`, of sequences padded to `width` if `padded`.

    Returns parameters and optimizer after them, and by name what is recorded, `[place]`, NaN where
    the block has ended.
    """
    mask = mask_of(data.length, width)[None] if padded else None
    if data.train is not None:
        data = data._replace(train=cut_to(data.train, program.task, width))
    first, end = (jnp.asarray(ends)[block] for ends in (program.starts, program.eval_steps))
    if program.kernel and kernels.applies(program, data.train):
        with jax.named_scope("training_steps"):
            parameters, optimizer, losses = kernels.train_block(
                program, data, mask, parameters, optimizer, first, end + 1
            )
        return parameters, optimizer, {LOSS: losses}
    vector, unravel = ravel_pytree(parameters)
    epoch = first // program.steps_an_epoch
    orders = orders_of(program, data, epoch)

    def step(global_step, carry):
        vector, optimizer, recorded = carry
        order = None
        if orders is not None:
            order = at(orders, global_step - epoch * program.steps_an_epoch)
        batch = batch_of(program, data, global_step, width, order)
        own_mask = mask_for(batch, mask)
        parameters, optimizer, new = train_step(
            program, data.hyper, unravel(vector), optimizer, batch, own_mask
        )
        recorded = jax.tree.map(partial(put, place=global_step - first), recorded, new)
        return ravel_pytree(parameters)[0], optimizer, recorded

    nothing = jnp.full(program.places, jnp.nan, jnp.float32)
    recorded = dict.fromkeys(recorded_names(program, parameters), nothing)
    with jax.named_scope("training_steps"):  # by which the benchmark's cost models find it
        vector, optimizer, recorded = jax.lax.fori_loop(
            first, end + 1, step, (vector, optimizer, recorded)
        )
    return unravel(vector), optimizer, recorded


def run_block(
    program: Program,
    widths: Sequence[tuple[int, bool]],
    choice: jax.Array | int,
    data: ExperimentData,
    block: jax.Array,
    state: TrainState,
    histories: Histories,
) -> tuple[TrainState, Histories]:
    """Block number `block`, unless the experiment has diverged; arguments as `advance`.

    Only the training steps depend on the width; all else is compiled once.
    """
    parameters, optimizer, recorded = jax.lax.switch(
        choice,
        [partial(take_steps, program, *width) for width in widths],
        *(data, block, state.parameters, state.optimizer),
    )
    whole, padded = widths[-1]
    mask = mask_of(data.length, whole)[None] if padded or len(widths) > 1 else None
    dev = evaluate(program, parameters, data.dev, mask)

    # Parameters, too: a row of a table that no batch reads can be NaN from the start.
    taken = jnp.asarray(program.step_of)[block] >= 0
    finite = jnp.isfinite(dev.loss) & jnp.all(jnp.isfinite(recorded[LOSS]) | ~taken)
    good = finite & jnp.all(jnp.isfinite(ravel_pytree(parameters)[0])) & ~state.diverged
    score = dev.accuracy if program.task.better == "accuracy" else -dev.loss
    improved = good & (score > state.best_score)
    new = TrainState(
        parameters=select(good, parameters, state.parameters),
        optimizer=select(good, optimizer, state.optimizer),
        best_parameters=select(improved, parameters, state.best_parameters),
        best_score=jnp.where(improved, score, state.best_score),
        best_step=jnp.where(improved, jnp.asarray(program.eval_steps)[block], state.best_step),
        diverged=~good,
    )
    # A diverged experiment is frozen as it was at its last good evaluation, but the history of the
    # block in which it diverged shows where it went wrong.
    recorded = {n: jnp.where(state.diverged, jnp.nan, row) for n, row in recorded.items()}
    evaluated = {"dev_loss": dev.loss, "dev_accuracy": dev.accuracy}
    evaluated = {name: jnp.where(good, value, jnp.nan) for name, value in evaluated.items()}
    return new, with_block(program, histories, block, recorded, evaluated)


def advance(
    program: Program,
    widths: Sequence[tuple[int, bool]],
    choice: jax.Array | int,
    data: ExperimentData,
    state: TrainState,
    histories: Histories,
    first_block: jax.Array | int,
    last_block: jax.Array | int,
) -> tuple[TrainState, Histories]:
    """Run the blocks first_block <= block < last_block; a diverged experiment stays as it is.

    `widths` are positions at which it may run, and whether its sequences may be shorter than that;
    each is compiled for itself. `choice`, a scalar, is which of them it is, the same for all
    experiments that run at once. The data are padded to the largest width.
    """

    def body(block, carry):
        return run_block(program, widths, choice, data, block, *carry)

    return jax.lax.fori_loop(first_block, last_block, body, (state, histories))


def select(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """`jnp.where` over whole pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
