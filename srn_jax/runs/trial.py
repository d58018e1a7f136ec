"""A sweep tried on abstract values before anyone trains: what is wrong with a user's own code."""

import re
from functools import partial
from inspect import signature
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.cells import Cell, cell_class
from srn_jax.config import DEFAULTS, ExperimentConfig, SweepConfig, is_object
from srn_jax.errors import UserError, shown, warn_once
from srn_jax.own_files import describe, own_mistakes, path_of, resolve
from srn_jax.runs import trial_of_cells
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Dataset, Examples, Task, Tokens, Vectors, check_length
from srn_jax.training.data import batch_of
from srn_jax.training.experiment import evaluate, prepare, train_step
from srn_jax.training.optimizer import new_optimizer
from srn_jax.training.program import hyperparameters_of, program_of

CHANGES_PATH = re.compile(rb"""^[^#'"\n]*\bsys\.path\s*(\.(insert|append|extend)|\[|\+?=)""", re.M)
STEPS = 2**31  # as they are counted on the devices


def try_out(config: SweepConfig, kernel: bool | None = None) -> None:
    """Check that a sweep can be, and try what is a user's own of it on abstract values.

    Args:
        config: the sweep.
        kernel: whether it must be trained by the kernels for GPUs; None leaves that open.

    Raises:
        UserError: for what is wrong, by line where it is in a user's file.
    """
    experiment = config.experiment
    settings = {"task": experiment.task, "cell": experiment.cell}
    settings |= {"optimizer": experiment.optimizer, "learning_rate": experiment.learning_rate}
    own = {name: value for name, value in settings.items() if is_own(value)}
    own |= {f"probe {n}": probe for n, probe in enumerate(config.probes) if is_own(probe)}
    for path in {path_of(value) for value in own.values()} - {None}:
        check_imports(path)
    try:
        with own_mistakes(*own.values()):
            task = task_of(config)
            if "task" in own:
                check_task(describe(own["task"]), task)
            for length in config.lengths if config.data is None else ():
                check_length(task, length)
            for name, why in unused(experiment, task).items():
                warn_once(f"`{name}` changes nothing {why}")
            if own:
                try_own(config, task, own)
            steps = program_of(config).steps
    except UserError:
        raise
    except Exception as error:  # ours goes wrong where theirs is not what it should be
        if not own:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{', '.join(map(describe, own.values()))}: {reason}") from error
    if steps >= STEPS:
        raise UserError(
            f"{steps:,} training steps are too many, at most {STEPS - 1:,}: fewer `epochs`, or a "
            "larger `batch_size`"
        )


def is_own(value: Any) -> bool:
    """Whether a setting is the user's, from a file or as an object."""
    return path_of(value) is not None or is_object(value)


def check_imports(path: Any) -> None:
    """Raise `UserError` for a file that brings others along, which the run would not keep."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if CHANGES_PATH.search(content):
        raise UserError(
            f"{path}: changes sys.path to import other files, but a run keeps this one alone: "
            "put what it needs into it, or install that"
        )


def unused(experiment: ExperimentConfig, task: Task) -> dict[str, str]:
    """The settings that differ from their defaults and change nothing, and why they do not."""
    cell, why = cell_class(experiment.cell), {}
    named = f"with `cell` {describe(experiment.cell)}"
    if issubclass(cell, Cell) and cell.forget_gate is None:
        why["forget_bias"] = named
    if isinstance(task.inputs, Vectors):
        why["embedding_size"] = f"with `task` {describe(experiment.task)}"
    if experiment.clip_norm is None:
        why["clip"] = "without `clip_norm`"
    if is_own(experiment.optimizer):
        own = resolve(experiment.optimizer, {})
        named = f"with `optimizer` {describe(experiment.optimizer)}"
        why["weight_decay"] = named
        if hasattr(own, "update") or "learning_rate" not in signature(own).parameters:
            why |= dict.fromkeys(("learning_rate", "schedule"), named)
    return {n: w for n, w in why.items() if getattr(experiment, n) != getattr(DEFAULTS, n)}


def try_own(config: SweepConfig, task: Task, own: dict[str, Any]) -> None:
    """Draw, build, train and record, all on abstract values."""
    experiment, length = config.experiment, max(config.lengths)
    if "cell" in own:
        trial_of_cells.check_cell(own["cell"], experiment.hidden_size)
    if "task" in own and config.data is None:
        name = describe(own["task"])
        check_draw(name, task, length, experiment.multiplicity)
        check_scores(name, task, check_values(name, task, length))
    program, hyper = program_of(config), hyperparameters_of(experiment)
    if "cell" in own:
        trial_of_cells.check_module(program, config)
    if "learning_rate" in own:
        rate = describe(own["learning_rate"]), program.config.learning_rate
        trial_of_cells.check_schedule(*rate, program.steps)
    files = None
    if config.data is not None:
        sizes = (program.train_examples, task.examples, task.examples)
        of = jax.ShapeDtypeStruct  # as they are read from files, without what is in them
        some = [Examples(of((n, length), jnp.int16), of((n,), jnp.int32)) for n in sizes]  # type: ignore[arg-type]
        files = Dataset(*some)
    inputs = jnp.uint32(0), jnp.int32(length), hyper
    state, _, data = jax.eval_shape(partial(prepare, program, length), *inputs, files)
    if "optimizer" in own:
        optimizer = new_optimizer(program, hyper)
        trial_of_cells.check_optimizer(describe(own["optimizer"]), optimizer, state.parameters)

    def step(state, data):
        batch = batch_of(program, data, jnp.int32(0), length)
        return train_step(program, data.hyper, state.parameters, state.optimizer, batch)

    jax.eval_shape(step, state, data)
    jax.eval_shape(partial(evaluate, program), state.parameters, data.dev)


def check_task(name: str, task: Task) -> None:
    """Raise `UserError` for what no task can say of itself."""
    if not isinstance(task.inputs, Tokens | Vectors):
        raise UserError(f"{name}: inputs must be Tokens(vocabulary) or Vectors(size)")
    sizes = {key: getattr(task, key) for key in ("outputs", "examples", "shortest")}
    for key, value in (
        sizes | {"answers": 1 if task.answers is None else task.answers, "inputs": task.inputs[0]}
    ).items():
        if not isinstance(value, Integral) or value < 1:
            raise UserError(f"{name}: {key} must be a whole number from 1, got {shown(value)}")
    for key, largest in (("chance", 1.0), ("chance_loss", 1e30)):
        value = getattr(task, key)
        if key == "chance_loss" and value != value:  # NaN: it depends on the length
            continue
        if value is not None and not (isinstance(value, Real) and 0 <= float(value) <= largest):
            wanted = "from 0 to 1" if key == "chance" else "from 0"
            raise UserError(f"{name}: {key} must be a number {wanted} or None, got {shown(value)}")
    if not isinstance(task.question, str) or "\n" in task.question:
        raise UserError(f"{name}: question must be one line of text, got {shown(task.question)}")
    if task.better not in ("accuracy", "loss"):
        raise UserError(f"{name}: better must be accuracy or loss, got {shown(task.better)}")


def check_draw(name: str, task: Task, length: int, units: int) -> None:
    """Raise `UserError` where a task draws examples of other shapes, or another number of them."""
    number, key, width = task.examples, jax.random.key(0), length + 1
    size = () if isinstance(task.inputs, Tokens) else (task.inputs.size,)
    answers = {1: (), None: (width,)}.get(task.answers, (task.answers,))
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
        shapes |= {"lengths": (examples,), "weights": shapes["targets"]}
        for part, shape in shapes.items():
            array = getattr(found, part)
            if array is None and part in ("lengths", "weights"):
                continue
            if getattr(array, "shape", None) != shape:
                raise UserError(
                    f"{name}: {method} gives {part} {getattr(array, 'shape', shown(array))}, for "
                    f"{what} {count} and width {width} expected {shape}"
                    + (", units * examples of them" if what == "units" else "")
                )


def check_values(name: str, task: Task, length: int) -> Examples:
    """Some examples; raises `UserError` for tokens or classes that a task says it does not have.

    So it does for what does not come from the key: as a program it would be the same always.
    """

    def draw(seed: int) -> Examples:  # traced anew each time
        def some(key: jax.Array, n: Any) -> Examples:
            return task.draw(key, max(task.examples, 16), n, length)

        return jax.tree.map(np.asarray, jax.jit(some)(jax.random.key(seed), length))

    drawn, again, other = draw(0), draw(0), draw(1)
    if not jax.tree.all(jax.tree.map(np.array_equal, drawn, again)):
        raise UserError(
            f"{name}: draw gives other examples for the same key: draw all from it, with jax.random"
        )
    if jax.tree.all(jax.tree.map(np.array_equal, drawn, other)):
        raise UserError(
            f"{name}: draw gives the same examples for every key, so that test sequences would be "
            "those of training: draw all from it, with jax.random"
        )
    limits = {}
    if isinstance(task.inputs, Tokens):
        limits["inputs"] = task.inputs.vocabulary
    if type(task).loss is Task.loss:
        limits["targets"] = task.outputs
    for part, limit in limits.items():
        values = getattr(drawn, part)
        if part == "targets" and drawn.weights is not None:
            values = values[drawn.weights > 0] if values.dtype.kind in "iu" else values
        wrong = values[(values < 0) | (values >= limit)]
        if values.dtype.kind not in "iu" or wrong.size:
            found = wrong[0] if wrong.size else values.dtype
            raise UserError(
                f"{name}: draw gives {part} with {found}, expected whole numbers "
                f"from 0 to {limit - 1}"
            )
    if drawn.lengths is not None and not ((drawn.lengths >= 1) & (drawn.lengths <= length)).all():
        raise UserError(f"{name}: draw gives lengths outside of 1 to {length}")
    if drawn.weights is not None and not (np.isfinite(drawn.weights) & (drawn.weights >= 0)).all():
        raise UserError(f"{name}: draw gives weights that are not finite and at least 0")
    return drawn


def check_scores(name: str, task: Task, drawn: Examples) -> None:
    """Raise `UserError` for a loss, `correct` or `counts` that are not a value for each target."""
    targets = drawn.targets
    outputs = jax.ShapeDtypeStruct((*targets.shape, task.outputs), jnp.float32)
    for method, arguments, kind, wanted in (
        ("loss", (outputs, targets), jnp.floating, "floats"),
        ("correct", (outputs, targets), jnp.bool_, "booleans"),
        ("counts", (targets, drawn.weights), jnp.bool_, "booleans"),
    ):
        found = jax.eval_shape(getattr(task, method), *arguments)
        shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", object)
        if shape != targets.shape or not jnp.issubdtype(dtype, kind):
            told = type(found).__name__ if shape is None else f"{dtype} {shape}"
            raise UserError(
                f"{name}: {method} gives {told}, for {len(targets)} examples expected "
                f"{wanted} {targets.shape}"
            )
