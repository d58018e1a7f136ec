"""A sweep tried on abstract values before anyone trains: what is wrong with a user's own code."""

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srn_jax.cells import Cell, cell_class
from srn_jax.cells.kernels import Kernels
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.own_files import own_mistakes, path_of
from srn_jax.runs.settings import own_paths
from srn_jax.tasks import task_of
from srn_jax.tasks.task import (
    PADDING,
    Dataset,
    Examples,
    Task,
    Tokens,
    Vectors,
    check_length,
)
from srn_jax.training.experiment import batch_of, evaluate, prepare, program_of, train_step
from srn_jax.training.model import hyperparameters_of, new_network


def try_out(config: SweepConfig, kernel: bool = False) -> None:
    """Check that a sweep can be, and try a user's own task, cell and probes on abstract values.

    Args:
        config: the sweep.
        kernel: whether it is to be trained by the kernels for GPUs.

    Raises:
        UserError: for what is wrong, by line where it is in a user's file.
    """
    task = task_of(config)
    if path_of(config.experiment.task) is not None:
        check_task(config.experiment.task, task)
    for length in config.lengths if config.data is None else ():
        check_length(task, length)
    steps = program_of(config, form=Kernels() if kernel else None).steps
    if steps >= 2**31:  # as they are counted on the devices
        raise UserError(
            f"{steps:,} training steps are too many, at most {2**31 - 1:,}: "
            "fewer --epochs, or a larger --batch-size"
        )
    own = own_paths(config)
    if not own:
        return
    try:
        with own_mistakes(*own):
            try_own(config, task, max(config.lengths))
    except UserError:
        raise
    except Exception as error:  # ours goes wrong where theirs is not what it should be
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{', '.join(map(str, own))}: {reason}") from None


def try_own(config: SweepConfig, task: Task, length: int) -> None:
    """Draw, build, train and record, all on abstract values."""
    settings, files = config.experiment, None
    check_cell(settings)
    if config.data is None:
        check_draw(settings.task, task, length, settings.multiplicity)
        if path_of(settings.task) is not None:
            check_values(settings.task, task, length)
    else:
        tokens = jax.ShapeDtypeStruct((task.examples, length), jnp.int16)
        labels = jax.ShapeDtypeStruct((task.examples,), jnp.int32)
        files = Dataset(*[Examples(tokens, labels)] * 3)  # type: ignore[arg-type]
    check_module(task, settings, min(config.lengths), padded=len(config.lengths) > 1)
    program = program_of(config)
    inputs = jnp.uint32(0), jnp.int32(length), hyperparameters_of(settings)
    state, _, data = jax.eval_shape(partial(prepare, program, length), *inputs, files)

    def step(state, data):
        batch = batch_of(program, data, jnp.int32(0), length)
        return train_step(program, data.hyper, state.parameters, state.optimizer, batch)

    jax.eval_shape(step, state, data)
    jax.eval_shape(partial(evaluate, program), state.parameters, data.dev)


def check_task(name: str, task: Task) -> None:
    """Raise `UserError` for what no task can say of itself."""
    if not isinstance(task.inputs, Tokens | Vectors):
        raise UserError(f"{name}: inputs must be Tokens(vocabulary) or Vectors(size)")
    counts = {key: getattr(task, key) for key in ("outputs", "answers", "examples", "shortest")}
    for key, value in (counts | {"inputs": task.inputs[0]}).items():
        if not isinstance(value, Integral) or value < 1:
            raise UserError(f"{name}: {key} must be a whole number from 1, got {value!r}")
    for key in ("chance", "chance_loss"):
        if not isinstance(value := getattr(task, key), Real | None):
            raise UserError(f"{name}: {key} must be a number or None, got {value!r}")


def check_draw(name: str, task: Task, length: int, units: int) -> None:
    """Raise `UserError` for examples of other shapes than a task's must have."""
    number = task.examples
    check_shapes(f"{name}: draw", task.draw, ("number", number), number, task, length)
    for some in sorted({1, units}):  # units of a test set and of the training set
        examples = some * number
        check_shapes(f"{name}: draw_set", task.draw_set, ("units", some), examples, task, length)


def check_shapes(
    name: str,
    draw: Callable[..., Examples],
    given: tuple[str, int],
    number: int,
    task: Task,
    length: int,
) -> None:
    """Raise `UserError` where `draw`, given so many of something, gives not `number` examples."""
    key, width = jax.random.key(0), length + 1
    found = jax.eval_shape(lambda n: draw(key, given[1], n, width), jnp.int32(length))
    if not isinstance(found, Examples):
        kind = type(found).__name__
        raise UserError(f"{name} gives {kind}, expected Examples(inputs, targets)")
    size = () if isinstance(task.inputs, Tokens) else (task.inputs.size,)
    answers = () if task.answers == 1 else (task.answers,)
    for part, shape in {"inputs": (number, width, *size), "targets": (number, *answers)}.items():
        if getattr(found, part).shape != shape:
            raise UserError(
                f"{name} gives {part} {getattr(found, part).shape}, for {given[0]} {given[1]} "
                f"and width {width} expected {shape}"
                + (", units * examples of them" if given[0] == "units" else "")
            )


def check_values(name: str, task: Task, length: int) -> None:
    """Raise `UserError` for tokens or classes that a task says it does not have."""
    drawn = jax.jit(lambda n: task.draw(jax.random.key(0), task.examples, n, length))(length)
    limits = {}
    if isinstance(task.inputs, Tokens):
        limits["inputs"] = task.inputs.vocabulary
    if type(task).loss is Task.loss:
        limits["targets"] = task.outputs
    for part, limit in limits.items():
        values = np.asarray(getattr(drawn, part))
        wrong = values[(values < 0) | (values >= limit)]
        if values.dtype.kind not in "iub" or wrong.size:
            found = wrong[0] if wrong.size else values.dtype
            raise UserError(
                f"{name}: draw gives {part} with {found}, expected whole numbers "
                f"from 0 to {limit - 1}"
            )


def check_module(task: Task, config: ExperimentConfig, length: int, padded: bool) -> None:
    """Raise `UserError` for a module of the user's that is no function of parameters and sequence.

    Nothing but parameters is kept from one step to the next, so dropout would be the same always.
    Shorter sequences are padded on the left, so where states depend on padding, a network would be
    tested as another one.
    """
    cell = cell_class(config.cell)
    if path_of(config.cell) is None or issubclass(cell, Cell):
        return
    if isinstance(task.inputs, Tokens):
        inputs, filler = jnp.zeros((1, length), jnp.int32), PADDING
    else:
        inputs, filler = jnp.ones((1, length, task.inputs.size)), 0
    more = [(0, 0), (2, 0), *[(0, 0)] * (inputs.ndim - 2)]
    longer = jnp.pad(inputs, more, constant_values=filler)
    network = new_network(task, config, jax.random.key(0))
    begun = jnp.arange(length + 2)[None] >= 2
    last = network.states(inputs)[-1]
    if not np.array_equal(last, network.states(inputs)[-1], equal_nan=True):
        raise UserError(
            f"{config.cell}: called twice it gives different states: take out what is random or "
            "counts its calls (dropout), since parameters alone are kept between steps"
        )
    if padded and not np.allclose(last, network.states(longer, begun)[-1], atol=1e-4):
        raise UserError(
            f"{config.cell}: padding behind a sequence changes its states, see where mask is False"
        )


def check_cell(config: ExperimentConfig) -> None:
    """Raise `UserError` for no cell, or one whose new state has another shape than the old."""
    cell = cell_class(config.cell)
    if not issubclass(cell, nnx.Module):
        raise UserError(f"{config.cell}: no srn_jax.Cell and no other flax.nnx.Module")
    if not issubclass(cell, Cell):
        return
    for key in ("gates", "states"):
        if not isinstance(value := getattr(cell, key), Integral) or value < 1:
            raise UserError(f"{config.cell}: {key} must be a whole number from 1, got {value!r}")
    side = jax.ShapeDtypeStruct((2, cell.gates * config.hidden_size), jnp.float32)
    one = jax.ShapeDtypeStruct((2, config.hidden_size), jnp.float32)
    state = one if cell.states == 1 else (one,) * cell.states
    new = jax.eval_shape(cell.plain_step, side, side, state)
    found, wanted = (jax.tree.map(jnp.shape, s) for s in (new, state))
    if found != wanted:
        raise UserError(f"{config.cell}: update gives a state {found}, expected {wanted}")
