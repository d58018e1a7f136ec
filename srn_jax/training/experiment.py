"""Training of ONE experiment as pure functions; nothing here knows that there are others.

An experiment runs in blocks: block i takes the steps up to and including the i-th evaluation step
and then evaluates on the development set. `advance` runs some blocks as one program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from srn_jax.cells import cell_class
from srn_jax.cells.kernels import Kernels, check_size
from srn_jax.cells.loops import Form, at, put
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.own_files import load_class, path_of
from srn_jax.tasks import task_of
from srn_jax.tasks.task import (
    Batches,
    Dataset,
    Examples,
    Task,
    batch_weights,
    cut_inputs,
    draw_dataset,
    draw_fresh,
    mask_of,
    overlap,
    to_batches,
)
from srn_jax.training import block_kernel
from srn_jax.training.model import (
    Hyperparameters,
    Parameters,
    network_with,
    new_network,
    parameters_of,
)
from srn_jax.training.optimizer import clip, new_optimizer
from srn_jax.training.probes import LOSS, Step, record

GENERATOR = "threefry2x32"  # whatever the user's JAX draws with


@dataclass(frozen=True)
class Program:
    """What is compiled: all that experiments which train side by side have in common."""

    task: Task
    cell: Any  # the class: one's own file may have changed under its name
    config: ExperimentConfig  # what changes no shape is at its default
    probes: tuple[str, ...] = ()
    own_probes: tuple[Any, ...] = ()  # the classes of those out of the user's files, likewise
    inits: tuple[str, ...] = ("xavier",)  # initializers among which experiments choose
    train_examples: int = 300
    form: Form | None = None  # of the loops over time; None takes the one that suits the platform

    @property
    def steps(self) -> int:
        """Training steps of the whole experiment: 19,000 with the textbook's settings."""
        return self.config.steps or self.config.epochs * self.steps_an_epoch

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which every example of a training set is seen once; the last batch kept."""
        return -(-self.train_examples // self.config.batch_size)

    @property
    def eval_steps(self) -> np.ndarray:
        """The global steps (from 0) after whose update the dev set is evaluated, `[evaluations]`.

        Every step > 0 that is a multiple of `eval_interval`, and the last. An experiment of a
        single step, which the textbook would never evaluate, is evaluated after that step.
        """
        interval = self.config.eval_interval
        regular = np.arange(interval, self.steps, interval)
        return np.union1d(regular, [self.steps - 1]).astype(np.int32)

    @property
    def step_of(self) -> np.ndarray:
        """The global steps that a block takes, `[block, place]`; -1 for places left over."""
        ends = self.eval_steps
        starts = np.concatenate([[0], ends[:-1] + 1])
        steps = starts[:, None] + np.arange((ends + 1 - starts).max())
        return np.where(steps <= ends[:, None], steps, -1)


def program_of(
    config: SweepConfig,
    *others: SweepConfig,
    files: Mapping[int, Any] | None = None,
    form: Form | None = None,
) -> Program:
    """The program of a sweep, and of others that differ in what changes no shape.

    It takes as many training examples as there are in `files`, where its data are not drawn.

    Raises:
        UserError: for sizes that the kernels do not know, if they are asked for.
    """
    if isinstance(form, Kernels):
        check_size(config.experiment.hidden_size)
    task = task_of(config)
    every = [config.experiment, *(other.experiment for other in others)]
    inits = tuple(dict.fromkeys(experiment.recurrent_init for experiment in every))
    number = task.examples * config.experiment.multiplicity
    if files is not None:
        number = len(files[config.lengths[0]].train)
    cell = cell_class(config.experiment.cell)
    own = tuple(load_class(name) for name in config.probes if path_of(name) is not None)
    settings = config.experiment.program
    return Program(task, cell, settings, config.probes, own, inits, number, form)


class TrainState(NamedTuple):
    """All that training changes, apart from the histories."""

    parameters: Parameters
    optimizer: optax.OptState
    best_parameters: Parameters
    best_accuracy: jax.Array  # scalar float32, starts at 0
    best_step: jax.Array  # scalar int32: the evaluation that gave the best parameters, or -1
    diverged: jax.Array  # scalar bool: a loss was not finite; the experiment is frozen


class Histories(NamedTuple):
    """What is recorded, by name; NaN for steps that are not reached yet."""

    steps: dict[str, Any]  # [block, place], see `Program.step_of`
    evaluations: dict[str, Any]  # [block]


class ExperimentData(NamedTuple):
    """What one experiment trains on and is measured by."""

    length: Any  # scalar
    hyper: Hyperparameters
    key: jax.Array  # data of the key from which fresh examples are drawn
    train: Batches | None  # None where every step draws its own
    dev: Examples
    test: Examples
    overlap: jax.Array  # scalar: test sequences that also occur in the training set


def experiment_key(seed: jax.Array | int, length: jax.Array | int) -> jax.Array:
    """The key from which all randomness of one experiment comes, however JAX is configured."""
    return jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), length)


def prepare(
    program: Program,
    width: int,
    seed: jax.Array,
    length: jax.Array,
    hyper: Hyperparameters,
    files: Dataset | None = None,
) -> tuple[TrainState, Histories, ExperimentData]:
    """State and data of one experiment at its start, which depends on its seed and length alone.

    Args:
        program: what experiments have in common.
        width: the width to pad to.
        seed: scalar.
        length: scalar.
        hyper: its own settings.
        files: its data, where they are not drawn.
    """
    config = program.config
    parameters, dataset, data_key = begin(program, width, seed, length, hyper, files)
    state = initial_state(program, hyper, parameters)
    fresh = config.fresh_data
    data = ExperimentData(
        length,
        hyper,
        jax.random.key_data(data_key),
        None if fresh else to_batches(dataset.train, config.batch_size, config.loss_reduction),
        dataset.dev,
        dataset.test,
        jnp.int32(0) if fresh else overlap(dataset),
    )
    return state, empty_histories(program, state.parameters), data


def begin(
    program: Program,
    width: int,
    seed: jax.Array,
    length: jax.Array,
    hyper: Hyperparameters,
    files: Dataset | None = None,
) -> tuple[Parameters, Dataset, jax.Array]:
    """Parameters, data and the key of the data before the first step; arguments as `prepare`."""
    dataset, data_key, parameter_key = data_of(program, width, seed, length, files)
    network = new_network(program.task, program.config, parameter_key, hyper, program.inits)
    return parameters_of(network), dataset, data_key


def data_of(
    program: Program,
    width: int,
    seed: jax.Array,
    length: jax.Array,
    files: Dataset | None = None,
) -> tuple[Dataset, jax.Array, jax.Array]:
    """The data of one experiment, their key and that of the parameters; arguments as `prepare`."""
    data_key, parameter_key = jax.random.split(experiment_key(seed, length))
    dataset = files
    if dataset is None:
        units = program.config.multiplicity
        dataset = draw_dataset(program.task, data_key, units, length, width)
    return dataset, data_key, parameter_key


def initial_state(program: Program, hyper: Hyperparameters, parameters: Parameters) -> TrainState:
    """The state before the first step, with the given parameters."""
    return TrainState(
        parameters=parameters,
        optimizer=new_optimizer(program.config, hyper).init(ravel_pytree(parameters)[0]),
        best_parameters=parameters,
        best_accuracy=jnp.float32(0),
        best_step=jnp.int32(-1),
        diverged=jnp.array(False),
    )


def empty_histories(program: Program, parameters: Parameters) -> Histories:
    """Histories of an experiment that has not begun."""
    blocks = len(program.eval_steps)
    steps = jax.tree.map(lambda row: jnp.tile(row, (blocks, 1)), no_steps(program, parameters))
    nothing = jnp.full(blocks, jnp.nan, jnp.float32)
    return Histories(steps, {"dev_loss": nothing, "dev_accuracy": nothing})


def no_steps(program: Program, parameters: Parameters) -> dict[str, jax.Array]:
    """What is recorded of the steps of a block before the first, by name: NaN, `[place]`."""
    step = Step(jnp.float32(0), parameters, parameters, parameters)
    names = jax.eval_shape(partial(record, program.probes), step)
    return {name: jnp.full(program.step_of.shape[1], jnp.nan, jnp.float32) for name in names}


def weighted_loss(
    program: Program, parameters: Parameters, batch: Any, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the losses of a batch of `Batches`, and the network's answers."""
    network = network_with(program.task, program.config, parameters)
    outputs = network(batch.inputs, mask, program.form)
    losses = program.task.loss(outputs, batch.targets)
    if losses.ndim > 1:  # several answers
        losses = jnp.mean(losses, axis=tuple(range(1, losses.ndim)))
    return jnp.sum(batch.weights * losses), outputs


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
    # As one vector: of a tensor each XLA would make many small programs.
    vector, unravel = ravel_pytree(parameters)
    clipped = ravel_pytree(clip(program.config, hyper, gradient))[0]
    updates, optimizer = new_optimizer(program.config, hyper).update(clipped, optimizer)
    recorded = record(program.probes, Step(loss, gradient, unravel(updates), parameters))
    return unravel(vector + updates), optimizer, recorded


def evaluate(
    program: Program, parameters: Parameters, examples: Examples, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Loss, the mean over batches of the batches' losses, and accuracy on a set of examples."""
    config = program.config
    weights = batch_weights(len(examples.targets), config.batch_size, config.loss_reduction)
    batch = Batches(examples.inputs, examples.targets, jnp.asarray(weights))
    loss, outputs = weighted_loss(program, parameters, batch, mask)
    right = program.task.correct(outputs, examples.targets)
    return loss, jnp.mean(right, dtype=jnp.float32)


def batch_of(program: Program, data: ExperimentData, step: jax.Array, width: int) -> Batches:
    """The batch of a global step: the next one of the training set, or a fresh one."""
    if data.train is not None:
        return at(data.train, step % len(data.train.weights))
    size = program.config.batch_size
    key = jax.random.wrap_key_data(data.key, impl=GENERATOR)
    examples = draw_fresh(program.task, key, step, size, data.length, width)
    weights = batch_weights(size, size, program.config.loss_reduction)
    return Batches(*map(jnp.asarray, (*examples, weights)))


def take_steps(
    program: Program,
    width: int,
    padded: bool,
    data: ExperimentData,
    block: jax.Array,
    parameters: Parameters,
    optimizer: optax.OptState,
) -> tuple[Parameters, optax.OptState, dict[str, jax.Array]]:
    """The steps up to evaluation number `block`.

    Args:
        program: what experiments have in common.
        width: positions at which it runs.
        padded: whether its sequences may be shorter than that.
        data: of this experiment, padded to `width` or more.
        block: scalar.
        parameters: before.
        optimizer: its state before.

    Returns:
        Parameters and optimizer after, and by name what is recorded, `[place]`, NaN where the
        block has ended.
    """
    mask = mask_of(data.length, width)[None] if padded else None
    if data.train is not None:
        inputs = cut_inputs(data.train.inputs, program.task.inputs, width)
        data = data._replace(train=data.train._replace(inputs=inputs))
    ends = jnp.asarray(program.eval_steps)
    first = jnp.where(block == 0, 0, ends[block - 1] + 1)
    vector, unravel = ravel_pytree(parameters)

    def step(global_step, carry):
        vector, optimizer, recorded = carry
        batch = batch_of(program, data, global_step, width)
        parameters, optimizer, new = train_step(
            program, data.hyper, unravel(vector), optimizer, batch, mask
        )
        recorded = jax.tree.map(partial(put, t=global_step - first), recorded, new)
        return ravel_pytree(parameters)[0], optimizer, recorded

    with jax.named_scope("training_steps"):  # by which the benchmark's cost models find it
        if block_kernel.applies(program):
            parameters, optimizer, losses = block_kernel.train_block(
                program, data, mask, parameters, optimizer, first, ends[block] + 1
            )
            recorded = {LOSS: losses}
        else:
            vector, optimizer, recorded = jax.lax.fori_loop(
                first, ends[block] + 1, step, (vector, optimizer, no_steps(program, parameters))
            )
            parameters = unravel(vector)
    return parameters, optimizer, recorded


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
    dev_loss, dev_accuracy = evaluate(program, parameters, data.dev, mask)

    places = jnp.asarray(program.step_of)[block] >= 0
    finite = jnp.isfinite(dev_loss) & jnp.all(jnp.isfinite(recorded[LOSS]) | ~places)
    good = finite & ~state.diverged
    improved = good & (dev_accuracy > state.best_accuracy)
    new = TrainState(
        parameters=select(good, parameters, state.parameters),
        optimizer=select(good, optimizer, state.optimizer),
        best_parameters=select(improved, parameters, state.best_parameters),
        best_accuracy=jnp.where(improved, dev_accuracy, state.best_accuracy),
        best_step=jnp.where(improved, jnp.asarray(program.eval_steps)[block], state.best_step),
        diverged=~good,
    )
    # A diverged experiment is frozen as it was at its last good evaluation, but the history of the
    # block in which it diverged shows where it went wrong.
    nothing = no_steps(program, state.parameters)
    evaluated = {"dev_loss": dev_loss, "dev_accuracy": dev_accuracy}
    entered = (
        select(state.diverged, nothing, recorded),
        jax.tree.map(lambda value: jnp.where(good, value, jnp.nan), evaluated),
    )
    return new, Histories(*jax.tree.map(partial(put, t=block), tuple(histories), entered))


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

    Args:
        program: what experiments have in common.
        widths: positions at which it may run, and whether its sequences may be shorter than that;
            each is compiled for itself.
        choice: scalar, which of them it is; the same for all experiments that run at once.
        data: of this experiment, padded to the largest width.
        state: at the start.
        histories: so far.
        first_block: scalar.
        last_block: scalar.
    """

    def body(block, carry):
        return run_block(program, widths, choice, data, block, *carry)

    return jax.lax.fori_loop(first_block, last_block, body, (state, histories))


def select(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """`jnp.where` over whole pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
