"""A sweep tried on abstract values before anyone trains: what is wrong with a user's own code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.cells import Cell, cell_class
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.own_files import own_mistakes, path_of
from srn_jax.tasks import task_of
from srn_jax.tasks.task import PADDING, Dataset, Examples, Task, Tokens, check_length
from srn_jax.training.experiment import batch_of, prepare, program_of, train_step
from srn_jax.training.model import hyperparameters_of, new_network


def try_out(config: SweepConfig) -> None:
    """Check that a sweep can be, and try a user's own task, cell and probes on abstract values.

    Raises:
        UserError: for what is wrong, by line where it is in a user's file.
    """
    task, settings = task_of(config), config.experiment
    length = max(config.lengths)
    for one in config.lengths if config.data is None else ():
        check_length(task, one)
    if (steps := program_of(config).steps) >= 2**31:  # as they are counted on the devices
        raise UserError(
            f"{steps:,} training steps are too many, at most {2**31 - 1:,}: "
            "fewer --epochs, or a larger --batch-size"
        )
    own = [*filter(None, map(path_of, (settings.cell, settings.task, *config.probes)))]
    if not own:
        return
    try:
        with own_mistakes(*own):
            try_own(config, task, length)
    except UserError:
        raise
    except Exception as error:  # ours goes wrong where theirs is not what it should be
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{', '.join(map(str, own))}: {reason}") from None


def try_own(config: SweepConfig, task: Task, length: int) -> None:
    """Draw, build, train and record, all on abstract values."""
    settings = config.experiment
    check_cell(settings)
    if config.data is None:
        check_draw(settings.task, task, length)
    if len(config.lengths) > 1:
        check_padding(task, settings, min(config.lengths))
    program = program_of(config)
    inputs = jnp.uint32(0), jnp.int32(length), hyperparameters_of(settings)
    files = None if config.data is None else Dataset(*[files_like(task, length)] * 3)
    state, _, data = jax.eval_shape(partial(prepare, program, length), *inputs, files)

    def step(state, data):
        batch = batch_of(program, data, jnp.int32(0), length)
        return train_step(program, data.hyper, state.parameters, state.optimizer, batch)

    recorded = jax.eval_shape(step, state, data)[2]
    wrong = [name for name, value in recorded.items() if value.shape]
    if wrong:
        raise UserError(f"{wrong[0]}: shape {recorded[wrong[0]].shape}, expected a scalar")


def check_draw(name: str, task: Task, length: int) -> None:
    """Raise `UserError` for examples of other shapes than a task's must have."""

    def draw(length):
        return task.draw(jax.random.key(0), task.examples, length, length_and_more)

    length_and_more = length + 1
    found = jax.eval_shape(draw, jnp.int32(length))
    shape = () if isinstance(task.inputs, Tokens) else (task.inputs.size,)
    answers = () if task.answers == 1 else (task.answers,)
    wanted = {"inputs": (length_and_more, *shape), "targets": answers}
    for part, rest in wanted.items():
        if getattr(found, part).shape != (task.examples, *rest):
            raise UserError(
                f"{name}: draw gives {part} {getattr(found, part).shape}, for number "
                f"{task.examples} and width {length_and_more} expected {(task.examples, *rest)}"
            )


def check_padding(task: Task, config: ExperimentConfig, length: int) -> None:
    """Raise `UserError` for a module of the user's whose states depend on padding.

    Shorter sequences are padded on the left, so such a network would be tested as another one.
    """
    cell = cell_class(config.cell)
    if path_of(config.cell) is None or issubclass(cell, Cell):
        return
    kind = task.inputs
    shape = () if isinstance(kind, Tokens) else (kind.size,)
    filler, value = (PADDING, 0) if isinstance(kind, Tokens) else (0.0, 1.0)
    inputs = jnp.full((1, length, *shape), value)
    padded = jnp.concatenate([jnp.full((1, 2, *shape), filler), inputs], axis=1)
    network = new_network(task, config, jax.random.key(0))
    begun = jnp.arange(length + 2)[None] >= 2
    last, last_padded = network.states(inputs)[-1], network.states(padded, begun)[-1]
    if not np.allclose(last, last_padded, atol=1e-4):
        raise UserError(
            f"{config.cell}: padding behind a sequence changes its states, see where mask is False"
        )


def files_like(task: Task, length: int) -> Examples:
    """Abstract examples as a data file has them."""
    inputs = jax.ShapeDtypeStruct((task.examples, length), jnp.int16)
    return Examples(inputs, jax.ShapeDtypeStruct((task.examples,), jnp.int32))  # type: ignore[arg-type]


def check_cell(config: ExperimentConfig) -> None:
    """Raise `UserError` for a cell of the family whose new state has another shape than the old."""
    cell = cell_class(config.cell)
    if not (isinstance(cell, type) and issubclass(cell, Cell)):
        return
    side = jax.ShapeDtypeStruct((2, cell.gates * config.hidden_size), jnp.float32)
    one = jax.ShapeDtypeStruct((2, config.hidden_size), jnp.float32)
    state = one if cell.states == 1 else (one,) * cell.states
    new = jax.eval_shape(cell.plain_step, side, side, state)
    if jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, state):
        found, wanted = (jax.tree.map(jnp.shape, s) for s in (new, state))
        raise UserError(f"{config.cell}: update gives a state {found}, expected {wanted}")
