"""A sweep tried on abstract values before anyone trains: what is wrong with a user's own code."""

import re
from functools import partial
from numbers import Integral, Real

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.cells import Cell, cell_class
from srn_jax.cells.kernels import Kernels
from srn_jax.checks import shown
from srn_jax.config import DEFAULTS, ExperimentConfig, SweepConfig, option_name
from srn_jax.errors import UserError, warn_once
from srn_jax.own_files import own_mistakes, path_of
from srn_jax.runs.settings import own_files, own_paths
from srn_jax.runs.trial_of_cells import check_cell, check_module
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Array, Dataset, Examples, Task, Tokens, Vectors, check_length
from srn_jax.training.experiment import batch_of, evaluate, prepare, program_of, train_step
from srn_jax.training.model import hyperparameters_of, options_of

CHANGES_PATH = re.compile(rb"""^[^#'"\n]*\bsys\.path\s*(\.(insert|append|extend)|\[|\+?=)""", re.M)


def try_out(config: SweepConfig, kernel: bool | None = None) -> None:
    """Check that a sweep can be, and try a user's own task, cell and probes on abstract values.

    Args:
        config: the sweep.
        kernel: whether it must be trained by the kernels for GPUs; None leaves that open.

    Raises:
        UserError: for what is wrong, by line where it is in a user's file.
    """
    task = task_of(config)
    if (file := path_of(config.experiment.task)) is not None:
        with own_mistakes(file):
            check_task(config.experiment.task, task)
    for length in config.lengths if config.data is None else ():
        check_length(task, length)
    steps = program_of(config, form=Kernels() if kernel else None).steps
    if steps >= 2**31:  # as they are counted on the devices
        raise UserError(
            f"{steps:,} training steps are too many, at most {2**31 - 1:,}: "
            "fewer --epochs, or a larger --batch-size"
        )
    for name, why in unused(config.experiment, task).items():
        warn_once(f"{option_name(name)} changes nothing {why}")
    own = own_paths(config)
    if not own:
        return
    for name, content in own_files(config).items():
        if CHANGES_PATH.search(content):
            raise UserError(
                f"{name}: changes sys.path to import other files, but a run keeps this one alone: "
                "put what it needs into it, or install that"
            )
    try:
        with own_mistakes(*own):
            try_own(config, task, max(config.lengths))
    except UserError:
        raise
    except Exception as error:  # ours goes wrong where theirs is not what it should be
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{', '.join(map(str, own))}: {reason}") from None


def unused(experiment: ExperimentConfig, task: Task) -> dict[str, str]:
    """The settings that differ from their defaults and change nothing, and why they do not."""
    cell, why = cell_class(experiment.cell), {}
    for name in {"recurrent_init", "forget_bias"}.difference(options_of(cell)):
        why[name] = f"with --cell {experiment.cell}"
    if issubclass(cell, Cell) and cell.forget_gate is None:
        why["forget_bias"] = f"with --cell {experiment.cell}"
    if isinstance(task.inputs, Vectors):
        why["embedding_size"] = f"with --task {experiment.task}"
    if experiment.clip_norm is None:
        why["clip"] = "without --clip-norm"
    return {n: w for n, w in why.items() if getattr(experiment, n) != getattr(DEFAULTS, n)}


def try_own(config: SweepConfig, task: Task, length: int) -> None:
    """Draw, build, train and record, all on abstract values."""
    settings, files = config.experiment, None
    check_cell(settings)
    if config.data is None:
        check_draw(settings.task, task, length, settings.multiplicity)
        if path_of(settings.task) is not None:
            drawn = check_values(settings.task, task, length)
            check_scores(settings.task, task, drawn.targets)
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
    for key, largest in (("chance", 1.0), ("chance_loss", 1e30)):
        value = getattr(task, key)
        if value is not None and not (isinstance(value, Real) and 0 <= float(value) <= largest):
            wanted = "from 0 to 1" if key == "chance" else "from 0"
            raise UserError(f"{name}: {key} must be a number {wanted} or None, got {value!r}")
    if not isinstance(task.question, str) or "\n" in task.question:
        raise UserError(f"{name}: question must be one line of text, got {shown(task.question)}")


def check_draw(name: str, task: Task, length: int, units: int) -> None:
    """Raise `UserError` where a task draws examples of other shapes, or another number of them."""
    number, key, width = task.examples, jax.random.key(0), length + 1
    size = () if isinstance(task.inputs, Tokens) else (task.inputs.size,)
    answers = () if task.answers == 1 else (task.answers,)
    calls = [("draw", "number", number, number)]
    for some in sorted({1, units}):  # units of a test set and of the training set
        calls.append(("draw_set", "units", some, some * number))
    for method, what, count, examples in calls:
        draw = partial(getattr(task, method), key, count)
        found = jax.eval_shape(lambda n, draw=draw: draw(n, width), jnp.int32(length))
        if not isinstance(found, Examples):
            kind = type(found).__name__
            raise UserError(f"{name}: {method} gives {kind}, expected Examples(inputs, targets)")
        shapes = {"inputs": (examples, width, *size), "targets": (examples, *answers)}
        for part, shape in shapes.items():
            if getattr(found, part).shape != shape:
                raise UserError(
                    f"{name}: {method} gives {part} {getattr(found, part).shape}, for {what} "
                    f"{count} and width {width} expected {shape}"
                    + (", units * examples of them" if what == "units" else "")
                )


def check_values(name: str, task: Task, length: int) -> Examples:
    """Some examples; raises `UserError` for tokens or classes that a task says it does not have.

    So it does for what does not come from the key: as a program it would be the same always.
    """

    def draw() -> Examples:  # traced anew each time
        return jax.jit(lambda n: task.draw(jax.random.key(0), task.examples, n, length))(length)

    drawn = draw()
    if not jax.tree.all(jax.tree.map(np.array_equal, drawn, draw())):
        raise UserError(
            f"{name}: draw gives other examples for the same key: draw all from it, with jax.random"
        )
    limits = {}
    if isinstance(task.inputs, Tokens):
        limits["inputs"] = task.inputs.vocabulary
    if type(task).loss is Task.loss:
        limits["targets"] = task.outputs
    for part, limit in limits.items():
        values = np.asarray(getattr(drawn, part))
        wrong = values[(values < 0) | (values >= limit)]
        if values.dtype.kind not in "iu" or wrong.size:
            found = wrong[0] if wrong.size else values.dtype
            raise UserError(
                f"{name}: draw gives {part} with {found}, expected whole numbers "
                f"from 0 to {limit - 1}"
            )
    return drawn


def check_scores(name: str, task: Task, targets: Array) -> None:
    """Raise `UserError` for a loss or `correct` that are not one value for each of the targets."""
    outputs = jax.ShapeDtypeStruct((*targets.shape, task.outputs), jnp.float32)
    for method, kind, wanted in (
        ("loss", jnp.floating, "floats"),
        ("correct", jnp.bool_, "booleans"),
    ):
        found = jax.eval_shape(getattr(task, method), outputs, targets)
        shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", object)
        if shape != targets.shape or not jnp.issubdtype(dtype, kind):
            told = type(found).__name__ if shape is None else f"{dtype} {shape}"
            raise UserError(
                f"{name}: {method} gives {told}, for {len(targets)} examples expected "
                f"{wanted} {targets.shape}"
            )
