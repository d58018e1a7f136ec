"""The network: inputs -> embedding -> recurrent cell -> linear -> answers.

The modules are flax.nnx modules; training sees them as nested dictionaries of arrays. Shapes:
`batch`, `time`, `M` embedding size (or the size of vector inputs), `D` hidden size.
"""

import inspect
import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srn_jax.cells import Cell, cell_class
from srn_jax.cells.cell import given
from srn_jax.cells.initializers import recurrent_initializer, uniform, xavier
from srn_jax.cells.loops import Form, layer, output, product
from srn_jax.cells.recurrence import ALL_STATES, Plan
from srn_jax.config import RECURRENT_INITS, ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.own_files import own_mistakes, path_of
from srn_jax.tasks.task import PADDING, Task, Tokens, blank_tokens

Parameters = dict[str, Any]  # arrays by module and name


class Hyperparameters(NamedTuple):
    """Settings that change no shape: scalars, so that experiments can differ in them."""

    learning_rate: Any
    clip_norm: Any
    forget_bias: Any
    recurrent_init: Any  # index into `config.RECURRENT_INITS`


def hyperparameters_of(config: ExperimentConfig) -> Hyperparameters:
    """The settings of an experiment that change no shape."""
    return Hyperparameters(
        np.float32(config.learning_rate),
        np.float32(config.clip_norm or np.inf),
        np.float32(config.forget_bias),
        np.int32(RECURRENT_INITS.index(config.recurrent_init)),
    )


class Embedding(nnx.Module):
    """A vector for each token: rows of a table `[vocabulary, M]`."""

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int,
        *,
        rngs: nnx.Rngs,
        table: jax.Array | None = None,
    ):
        if table is None:
            table = xavier(rngs.params(), (vocabulary, embedding_size))
        self.table = nnx.Param(given(table, (vocabulary, embedding_size), "table"))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look the tokens up by index: `[...]` -> `[..., M]`."""
        return self.table[...][tokens]

    def by_one_hot(self, tokens: jax.Array) -> jax.Array:
        """The same as a product, one-hot(tokens) @ table, whose gradient is a product too."""
        table = self.table[...]
        return product(jax.nn.one_hot(tokens, len(table), dtype=table.dtype), table)


class Network(nnx.Module):
    """What answers a task: an embedding where the inputs are tokens, a cell, and a linear layer."""

    def __init__(
        self,
        task: Task,
        cell: Any,
        embedding_size: int = 32,
        hidden_size: int = 32,
        *,
        rngs: nnx.Rngs,
        **cell_options: Any,
    ):
        """Parameters are drawn from `rngs`; `cell` is built as cell(M, D, rngs=..., ...)."""
        self.answers = task.answers
        self.hidden_size = hidden_size
        if isinstance(task.inputs, Tokens):
            self.vocabulary = task.inputs.vocabulary
            self.embedding = Embedding(self.vocabulary, embedding_size, rngs=rngs)
            input_size = embedding_size
        else:
            input_size = self.input_size = task.inputs.size
        self.cell = cell(input_size, hidden_size, rngs=rngs, **cell_options)
        limit = uniform(1 / math.sqrt(hidden_size))
        self.output = nnx.Linear(
            hidden_size,
            task.outputs,
            kernel_init=limit,
            bias_init=limit,
            dot_general=dot_general,
            rngs=rngs,
        )

    def __call__(
        self, inputs: jax.Array, mask: jax.Array | None = None, form: Form | None = None
    ) -> jax.Array:
        """Answers `[batch, outputs]`, or `[batch, answers, outputs]` where there are several.

        Args:
            inputs: tokens `[batch, time]` or vectors `[batch, time, size]`.
            mask: `[batch, time]` or `[1, time]`; False where a sequence has not begun yet. None
                says that nothing is padded.
            form: of the loops over time; None takes the one that suits the platform.

        Raises:
            UserError: a `ValueError`, for tokens out of range, or another shape.
        """
        inputs = self.checked(inputs, padded=mask is not None)
        mask = None if mask is None else checked_mask(mask, inputs.shape[:2])
        if self.answers == 1:
            return self.output(self.states(inputs, mask, Plan(last=True, form=form)))
        return self.answer(self.states(inputs, mask, Plan(form=form)))

    def checked(self, inputs: Any, padded: bool) -> jax.Array:
        """Inputs as an array that the network can take; raises `UserError` for any other."""
        inputs, tokens = array_of("inputs", inputs), hasattr(self, "vocabulary")
        size = () if tokens else (self.input_size,)
        if inputs.ndim != 2 + len(size) or inputs.shape[2:] != size or inputs.shape[1] == 0:
            wanted = ", ".join(map(str, ("batch", "time", *size)))
            raise UserError(f"inputs must be [{wanted}] and not empty, got shape {inputs.shape}")
        if inputs.shape[1] < self.answers:
            raise UserError(
                f"inputs must have at least {self.answers} positions, since the last "
                f"{self.answers} are answered, got {inputs.shape[1]}"
            )
        if tokens:
            check_tokens(inputs, self.vocabulary, padded)
        elif inputs.dtype.kind not in "iub" and not jnp.issubdtype(inputs.dtype, np.floating):
            raise UserError(f"inputs must be real numbers, got {inputs.dtype}")
        return jnp.asarray(inputs, None if tokens else self.output.kernel[...].dtype)

    def answer(self, states: jax.Array) -> jax.Array:
        """The answers that the last of the hidden states `[time, batch, D]` give."""
        if self.answers == 1:
            return self.output(states[-1])
        return self.output(jnp.swapaxes(states[-self.answers :], 0, 1))

    def states(
        self, inputs: jax.Array, mask: jax.Array | None = None, plan: Plan = ALL_STATES
    ) -> jax.Array:
        """The hidden states, time-major: `[time, batch, D]`; arguments as `__call__`.

        With a plan that asks for the last state alone it is that, `[batch, D]`.

        There are only a few tokens, so for them the input side of a cell of the family is folded:
        embedding @ W + b is computed once for each token, and every position takes a row of that.
        """
        tokens = hasattr(self, "vocabulary")
        if isinstance(self.cell, Cell) and tokens:
            rows = self.cell.project(self.embedding.table[...])  # [vocabulary, gates * D]
            if mask is not None:  # whatever a task has drawn there
                inputs, mask = blank_tokens(inputs, mask), mask.T
            one_hot = jax.nn.one_hot(inputs.T, self.vocabulary, dtype=rows.dtype)
            # In padding the one-hot row is zero, so neither W nor b enters.
            plan = plan._replace(blank=True)
            return output(self.cell.scan(one_hot, rows, mask, plan=plan))
        vectors = self.embedding(jnp.maximum(inputs, 0)) if tokens else inputs
        start = None
        if not isinstance(self.cell, Cell):
            # Padding goes behind the sequences: a module that only looks back need not mind it.
            start = None if mask is None else jnp.argmax(mask, axis=1)
            whole = vectors.shape[:2]
            mask = jnp.ones(whole, bool) if mask is None else jnp.broadcast_to(mask, whole)
            vectors, mask = turned(vectors, start), turned(mask, start)
        states = self.cell(vectors, mask)
        expected = (*vectors.shape[:2], self.hidden_size)
        if getattr(states, "shape", None) != expected:
            found = getattr(states, "shape", type(states).__name__)
            raise UserError(
                f"{type(self.cell).__name__} returns {found}, expected states [batch, time, "
                f"hidden_size], here {expected}"
            )
        states = turned(states, None if start is None else -start)
        return states[:, -1] if plan.last else jnp.swapaxes(states, 0, 1)


def dot_general(states: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """The product of the linear layer, see `layer`; otherwise as `jax.lax.dot_general`."""
    return layer(states, kernel)


def turned(values: jax.Array, places: jax.Array | None) -> jax.Array:
    """`values [batch, time, ...]`, each row moved to the front by `places [batch]` or `[1]`."""
    if places is None:
        return values
    rows = jnp.broadcast_to(places, values.shape[:1])
    return jax.vmap(lambda row, by: jnp.roll(row, -by, axis=0))(values, rows)


def array_of(name: str, values: Any) -> Any:
    """Values, such as nested lists, as an array; raises `UserError` if they cannot be one."""
    if isinstance(values, jax.Array):  # or traced
        return values
    try:
        return np.asarray(values)  # in which a number too large for JAX is still itself
    except jax.errors.TracerArrayConversionError:  # a list of traced values
        return jnp.asarray(values)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be an array, or lists of equal lengths") from None


def checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """A mask as an array of booleans; raises `UserError` if it does not fit `[batch, time]`."""
    mask = array_of("mask", mask)
    if mask.shape not in (shape, (1, shape[1])) or mask.dtype.kind not in "biu":
        raise UserError(
            f"mask must be booleans [batch, time] or [1, time], here {shape} or "
            f"{(1, shape[1])}, got shape {mask.shape} of {mask.dtype}"
        )
    return jnp.asarray(mask, bool)


def check_tokens(tokens: Any, vocabulary: int, padded: bool) -> None:
    """Raise `UserError` for tokens out of range, where their values are known."""
    traced = isinstance(tokens, jax.core.Tracer)
    wanted = f"inputs must be whole numbers from 0 to {vocabulary - 1}"
    if tokens.dtype.kind not in ("iub" if traced else "iu"):
        raise UserError(f"{wanted}, got {tokens.dtype}")
    if traced:
        return
    values = np.asarray(tokens)
    wrong = values[(values < (PADDING if padded else 0)) | (values >= vocabulary)]
    if wrong.size:
        raise UserError(f"{wanted}, got {wrong.flat[0]}")


def new_network(
    task: Task,
    config: ExperimentConfig,
    key: jax.Array,
    hyper: Hyperparameters | None = None,
    inits: tuple[str, ...] | None = None,
) -> Network:
    """A network of the configured kind and sizes with parameters drawn from `key`.

    Args:
        task: what it is to learn.
        config: cell and sizes.
        key: a typed PRNG key.
        hyper: overrides what the configuration says of initial weights.
        inits: the initializers among which `hyper` chooses; fewer compile faster.
    """
    cell, options = cell_class(config.cell), {}
    if taken := options_of(cell):
        hyper = hyperparameters_of(config) if hyper is None else hyper
        names = (config.recurrent_init,) if inits is None else inits
        choices = [recurrent_initializer(name) for name in names]
        number = jnp.asarray([RECURRENT_INITS.index(name) for name in names])

        def initializer(key, shape, dtype=jnp.float32):
            if len(choices) == 1:
                return choices[0](key, shape, dtype)
            drawn = jnp.stack([draw(key, shape, dtype) for draw in choices])
            return drawn[jnp.argmax(number == hyper.recurrent_init)]

        options = {"recurrent_init": initializer, "forget_bias": hyper.forget_bias}
        options = {name: options[name] for name in taken}
    with own_mistakes(path_of(config.cell)):
        return Network(
            task,
            cell,
            config.embedding_size,
            config.hidden_size,
            rngs=nnx.Rngs(jax.random.fold_in(key, 1), params=key),  # one stream more, for users
            **options,
        )


def options_of(cell: Any) -> list[str]:
    """Which settings of initial weights a cell's constructor takes."""
    parameters = inspect.signature(cell.__init__).parameters
    passes_on = issubclass(cell, Cell) and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return [name for name in ("recurrent_init", "forget_bias") if passes_on or name in parameters]


def parameters_of(network: nnx.Module) -> Parameters:
    """The parameters of a network as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def network_with(task: Task, config: ExperimentConfig, parameters: Parameters) -> Network:
    """The network that has these parameters, as `parameters_of` gives them; costs no copy."""
    definition, states = _template(
        task, cell_class(config.cell), config.cell, config.embedding_size, config.hidden_size
    )
    state, rest = jax.tree.map(lambda leaf: leaf, states)  # new variables, of the present trace
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(definition, state, rest)


@cache
def _template(task: Task, cell: Any, name: str, embedding_size: int, hidden_size: int) -> Any:
    """Definition, abstract parameters, and whatever else a network holds (none of ours does)."""
    config = ExperimentConfig(cell=name, embedding_size=embedding_size, hidden_size=hidden_size)

    split: Any = nnx.split  # whose types do not know how many parts come back

    def build() -> Network:
        return new_network(task, config, jax.random.key(0))

    definition, state, rest = split(nnx.eval_shape(build), nnx.Param, ...)
    if jax.tree.leaves(rest):  # such as the random state of a module of the user's
        with jax.ensure_compile_time_eval():
            definition, _, rest = split(build(), nnx.Param, ...)
    return definition, (state, rest)
