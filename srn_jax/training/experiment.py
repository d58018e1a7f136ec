"""Training of ONE experiment as pure functions; nothing here knows that there are others.

An experiment runs in blocks: block i takes the steps up to and including the i-th evaluation step
and then evaluates on the development set. `advance` runs some blocks as one program, and the
arrays that it fills in are the whole history of the experiment.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from srn_jax.config import ExperimentConfig, number_of_steps
from srn_jax.tasks.digit_sum import (
    Array,
    Batches,
    Dataset,
    Examples,
    batch_mean_weights,
    to_batches,
)
from srn_jax.training.model import Parameters, classifier_with


class TrainState(NamedTuple):
    """All that training changes; histories are NaN where training has not got to."""

    parameters: Parameters
    optimizer: optax.OptState
    best_parameters: Parameters
    best_accuracy: jax.Array  # scalar float32, starts at 0
    best_step: jax.Array  # scalar int32: the evaluation that gave the best parameters, or -1
    diverged: jax.Array  # scalar bool: a loss was not finite; the experiment is frozen
    train_loss: jax.Array  # [steps]: loss of each batch, before the update that it leads to
    dev_loss: jax.Array  # [evaluations]
    dev_accuracy: jax.Array  # [evaluations]


def evaluation_steps(config: ExperimentConfig, steps: int) -> np.ndarray:
    """The global steps (from 0) after whose update the dev set is evaluated, `[evaluations]`.

    Every step > 0 that is a multiple of `eval_interval`, and the last. An experiment of a single
    step, which the textbook would never evaluate, is evaluated after that step.
    """
    regular = np.arange(config.eval_interval, steps, config.eval_interval)
    return np.union1d(regular, [steps - 1]).astype(np.int32)


def new_optimizer(config: ExperimentConfig) -> optax.GradientTransformation:
    """Adam with betas 0.9 and 0.999 and eps 1e-8, over all parameters as one flat vector.

    Flattening changes no value; it makes one small program of what would be six.
    """
    return optax.flatten(optax.adam(config.learning_rate, b1=0.9, b2=0.999, eps=1e-8))


def initial_state(
    config: ExperimentConfig, parameters: Parameters, train_examples: int
) -> TrainState:
    """The state before the first step, with the given parameters."""
    steps = number_of_steps(config, train_examples)
    evaluations = len(evaluation_steps(config, steps))
    return TrainState(
        parameters=parameters,
        optimizer=new_optimizer(config).init(parameters),
        best_parameters=parameters,
        best_accuracy=jnp.float32(0),
        best_step=jnp.int32(-1),
        diverged=jnp.array(False),
        train_loss=jnp.full(steps, jnp.nan, jnp.float32),
        dev_loss=jnp.full(evaluations, jnp.nan, jnp.float32),
        dev_accuracy=jnp.full(evaluations, jnp.nan, jnp.float32),
    )


def weighted_loss(
    parameters: Parameters, digits: Array, labels: Array, weights: Array
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the cross-entropies, and the logits `[batch, 19]`."""
    logits = classifier_with(parameters)(jnp.asarray(digits))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(weights * losses), logits


def train_step(
    config: ExperimentConfig,
    parameters: Parameters,
    optimizer: optax.OptState,
    batch: Batches,
) -> tuple[Parameters, optax.OptState, jax.Array]:
    """One update by one batch (`digits [batch, length]`); also the loss before the update."""
    (loss, _), gradient = jax.value_and_grad(weighted_loss, has_aux=True)(parameters, *batch)
    updates, optimizer = new_optimizer(config).update(gradient, optimizer, parameters)
    return optax.apply_updates(parameters, updates), optimizer, loss


def evaluate(
    config: ExperimentConfig, parameters: Parameters, examples: Examples
) -> tuple[jax.Array, jax.Array]:
    """Loss, the mean over batches of the batch means, and accuracy on a development or test set."""
    weights = batch_mean_weights(len(examples.labels), config.batch_size)
    loss, logits = weighted_loss(parameters, *examples, jnp.asarray(weights))
    return loss, jnp.mean(jnp.argmax(logits, axis=-1) == examples.labels, dtype=jnp.float32)


def run_block(
    config: ExperimentConfig, state: TrainState, train: Batches, dev: Examples, block: jax.Array
) -> TrainState:
    """The steps up to evaluation number `block`, and that evaluation."""
    ends = jnp.asarray(evaluation_steps(config, len(state.train_loss)))
    first = jnp.where(block == 0, 0, ends[block - 1] + 1)
    last = ends[block]
    batches = train.labels.shape[0]

    def step(global_step, carry):
        parameters, optimizer, train_loss = carry
        batch = jax.tree.map(lambda array: array[global_step % batches], train)
        parameters, optimizer, loss = train_step(config, parameters, optimizer, batch)
        return parameters, optimizer, train_loss.at[global_step].set(loss)

    parameters, optimizer, train_loss = jax.lax.fori_loop(
        first, last + 1, step, (state.parameters, state.optimizer, state.train_loss)
    )
    dev_loss, dev_accuracy = evaluate(config, parameters, dev)

    steps = jnp.arange(len(train_loss))
    in_block = (first <= steps) & (steps <= last)
    finite = jnp.isfinite(dev_loss) & jnp.all(jnp.isfinite(train_loss) | ~in_block)
    improved = dev_accuracy > state.best_accuracy
    return select(
        finite,
        TrainState(
            parameters=parameters,
            optimizer=optimizer,
            best_parameters=select(improved, parameters, state.best_parameters),
            best_accuracy=jnp.where(improved, dev_accuracy, state.best_accuracy),
            best_step=jnp.where(improved, last, state.best_step),
            diverged=state.diverged,
            train_loss=train_loss,
            dev_loss=state.dev_loss.at[block].set(dev_loss),
            dev_accuracy=state.dev_accuracy.at[block].set(dev_accuracy),
        ),
        # Frozen as it was at the last evaluation, but the history shows where it went wrong.
        state._replace(diverged=jnp.array(True), train_loss=train_loss),
    )


def advance(
    config: ExperimentConfig,
    state: TrainState,
    train: Batches,
    dev: Examples,
    first_block: jax.Array | int,
    last_block: jax.Array | int,
) -> TrainState:
    """Run the blocks first_block <= block < last_block; a diverged experiment stays as it is."""

    def body(block, state):
        return jax.lax.cond(
            state.diverged,
            lambda state: state,
            lambda state: run_block(config, state, train, dev, block),
            state,
        )

    return jax.lax.fori_loop(first_block, last_block, body, state)


@partial(jax.jit, static_argnums=0)
def train(config: ExperimentConfig, parameters: Parameters, dataset: Dataset) -> TrainState:
    """One whole experiment, from the given parameters on the given data."""
    state = initial_state(config, parameters, len(dataset.train.labels))
    batches = to_batches(dataset.train, config.batch_size)
    return advance(config, state, batches, dataset.dev, 0, len(state.dev_loss))


def select(condition: jax.Array, if_true, if_false):
    """`jnp.where` over whole pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
