"""The network: inputs -> embedding -> recurrent cells -> linear -> answers.

The modules are flax.nnx modules; training sees them as nested dictionaries of arrays. Shapes:
`batch`, `time`, `M` embedding size (or the size of vector inputs), `D` hidden size, twice as large
for what follows a bidirectional layer.
"""

import inspect
import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srn_jax.cells import Cell
from srn_jax.cells.initializers import recurrent_initializer, uniform
from srn_jax.cells.recurrence import How, output, product
from srn_jax.config import DEFAULTS, RECURRENT_INITS, ExperimentConfig, is_number
from srn_jax.own_files import own_mistakes
from srn_jax.tasks.task import Task, Tokens, blank_tokens
from srn_jax.training.checks import checked_inputs, checked_mask
from srn_jax.training.modules import Embedding, dot_general, states_of_module
from srn_jax.training.program import Program

Parameters = dict[str, Any]  # arrays by module and name
FOLDED = 256  # tokens, at most, of which the input side of a cell is computed once for each


class Hyperparameters(NamedTuple):
    """Settings that change no shape: scalars, so that experiments can differ in them."""

    learning_rate: Any
    weight_decay: Any
    clip_norm: Any
    forget_bias: Any
    chrono: Any
    recurrent_init: Any  # index into `config.RECURRENT_INITS`


def hyperparameters_of(config: ExperimentConfig) -> Hyperparameters:
    """The settings of an experiment that change no shape."""
    rate = (
        config.learning_rate if is_number(config.learning_rate) else np.nan
    )  # or it is a function
    return Hyperparameters(
        np.float32(rate),
        np.float32(config.weight_decay),
        np.float32(config.clip_norm or np.inf),
        np.float32(config.forget_bias),
        np.float32(config.chrono or np.nan),
        np.int32(RECURRENT_INITS.index(config.recurrent_init)),
    )


class Network(nnx.Module):
    """What answers a task: an embedding where the inputs are tokens, cells, and a linear layer."""

    def __init__(
        self,
        task: Task,
        cell: Any,
        embedding_size: int = 32,
        hidden_size: int = 32,
        *,
        rngs: nnx.Rngs,
        layers: int = 1,
        bidirectional: bool = False,
        embedding_init: str = "xavier",
        platform: str | None = None,
        **cell_options: Any,
    ):
        """Parameters are drawn from `rngs`; a cell is built as cell(M, D, rngs=..., ...).

        The cells are `cell`, `cell_2`, ..., and with them `cell_back`, `cell_2_back`, ..., which
        run from the last position to the first. `platform` is as in `cells.recurrence.How`.
        """
        self.inputs, self.answers = task.inputs, task.answers
        self.hidden_size, self.platform = hidden_size, platform
        size = task.inputs[0]
        if isinstance(task.inputs, Tokens):
            self.embedding = Embedding(size, embedding_size, rngs=rngs, init=embedding_init)
            size = embedding_size
        ends = ("", "_back") if bidirectional else ("",)
        stems = ["cell", *(f"cell_{number}" for number in range(2, layers + 1))]
        self.cells = tuple(tuple(stem + end for end in ends) for stem in stems)
        for names in self.cells:
            for name in names:
                setattr(self, name, cell(size, hidden_size, rngs=rngs, **cell_options))
            size = len(ends) * hidden_size
        limit = uniform(1 / math.sqrt(size))
        self.output = nnx.Linear(
            size,
            task.outputs,
            kernel_init=limit,
            bias_init=limit,
            dot_general=dot_general,
            rngs=rngs,
        )

    def __call__(
        self, inputs: jax.Array, mask: jax.Array | None = None, plain: bool = False
    ) -> jax.Array:
        """Answers `[batch, outputs]`, or `[batch, answers, outputs]` where there are several.

        Args:
            inputs: tokens `[batch, time]` or vectors `[batch, time, size]`.
            mask: `[batch, time]` or `[1, time]`; False where a sequence has not begun yet. None
                says that nothing is padded.
            plain: leave the recurrence's derivative to autodiff: slower, and knows forward mode.

        Raises:
            UserError: a `ValueError`, for tokens out of range, or another shape.
        """
        inputs = checked_inputs(inputs, self.inputs, self.answers or 1, padded=mask is not None)
        mask = None if mask is None else checked_mask(mask, inputs.shape[:2])
        if self.answers == 1:
            return self.linear(self.states(inputs, mask, plain, last=True), plain)
        return self.answer(self.states(inputs, mask, plain), plain)

    def linear(self, states: jax.Array, plain: bool = False) -> jax.Array:
        """The linear layer, `[..., D]` -> `[..., outputs]`."""
        if not plain:
            return self.output(states)
        sums, bias = product(states, self.output.kernel[...]), self.output.bias[...]
        return sums + bias.reshape(*[1] * (sums.ndim - 1), -1)

    def answer(self, states: jax.Array, plain: bool = False) -> jax.Array:
        """The answers that the last of the hidden states `[time, batch, D]` give."""
        if self.answers == 1:  # backward, a sequence ends where it begins
            ends = [states[-1, :, : self.hidden_size], states[0, :, self.hidden_size :]]
            return self.linear(jnp.concatenate(ends, axis=-1), plain)
        first = 0 if self.answers is None else -self.answers
        return self.linear(jnp.swapaxes(states[first:], 0, 1), plain)

    def states(
        self,
        inputs: jax.Array,
        mask: jax.Array | None = None,
        plain: bool = False,
        last: bool = False,
    ) -> jax.Array:
        """The hidden states of the top layer, time-major: `[time, batch, D]`.

        The arguments are as in `__call__`; with `last` it is the state after the last position
        alone, `[batch, D]`, and with it, if bidirectional, the backward one after the first.
        """
        if isinstance(self.inputs, Tokens) and mask is not None:  # whatever a task has drawn there
            inputs = blank_tokens(inputs, mask)
        if not isinstance(self.inputs, Tokens):
            inputs = jnp.asarray(inputs, self.output.kernel[...].dtype)
        below = jnp.swapaxes(inputs, 0, 1)
        for number, names in enumerate(self.cells):
            alone = last and number == len(self.cells) - 1
            read = [
                self.read(getattr(self, name), below, mask, number == 0, back, plain, alone)
                for name, back in zip(names, (False, True), strict=False)
            ]
            below = read[0] if len(read) == 1 else jnp.concatenate(read, axis=-1)
        return below

    def read(
        self,
        cell: Any,
        below: jax.Array,
        mask: jax.Array | None,
        first: bool,
        back: bool,
        plain: bool,
        last: bool,
    ) -> jax.Array:
        """The states `[time, batch, D]` of a cell that reads `below`, or its last alone.

        There are only a few tokens, so for them the input side of a cell of the family is folded:
        embedding @ W + b is computed once for each token, and every position takes a row of that.
        """
        tokens = first and isinstance(self.inputs, Tokens)
        folded = tokens and isinstance(cell, Cell) and self.inputs[0] <= FOLDED
        if tokens and not folded:
            below = self.embedding(jnp.maximum(below, 0))
        if not isinstance(cell, Cell):
            return states_of_module(cell, self.hidden_size, below, mask, back, last)
        if folded:  # in padding the one-hot row is zero, so neither W nor b enters
            weight = cell.project(self.embedding.table[...], plain)  # [vocabulary, gates * D]
            features = jax.nn.one_hot(below, len(weight), dtype=weight.dtype)
        else:
            features, weight = cell.sides(below)
            if mask is not None:
                features = jnp.where(mask.T[..., None], features, 0)
        keep = None if mask is None else mask.T
        if back:
            features, keep = features[::-1], None if keep is None else keep[::-1]
        how = How(last=last, blank=not back, platform=self.platform)
        states = output(cell.scan(features, weight, keep, how=how, plain=plain))
        return states[::-1] if back and not last else states


def new_network(program: Program, key: jax.Array, hyper: Hyperparameters | None = None) -> Network:
    """A network of the program's kind and sizes with parameters drawn from `key`.

    Args:
        program: task, cell and sizes.
        key: a typed PRNG key.
        hyper: what is said of initial weights; that of the default settings unless given.
    """
    config, options = program.config, {}
    if taken := options_of(program.cell):
        hyper = hyperparameters_of(DEFAULTS) if hyper is None else hyper
        choices = [recurrent_initializer(name) for name in program.inits]
        number = jnp.asarray([RECURRENT_INITS.index(name) for name in program.inits])

        def initializer(key, shape, dtype=jnp.float32):
            if len(choices) == 1:
                return choices[0](key, shape, dtype)
            drawn = jnp.stack([draw(key, shape, dtype) for draw in choices])
            return drawn[jnp.argmax(number == hyper.recurrent_init)]

        options = {"recurrent_init": initializer, "forget_bias": hyper.forget_bias}
        if config.chrono is not None:
            options["chrono"] = hyper.chrono
        options = {name: value for name, value in options.items() if name in taken}
    with own_mistakes(program.cell):
        return Network(
            program.task,
            program.cell,
            config.embedding_size,
            config.hidden_size,
            # One stream more, for users: its key is none that the other's count can reach.
            rngs=nnx.Rngs(jax.random.fold_in(key, 2**32 - 1), params=key),
            layers=config.layers,
            bidirectional=config.bidirectional,
            embedding_init=config.embedding_init,
            platform=program.platform,
            **options,
        )


def options_of(cell: Any) -> list[str]:
    """Which settings of initial weights a cell's constructor takes, and makes something of."""
    parameters = inspect.signature(cell.__init__).parameters
    family = issubclass(cell, Cell)
    passes_on = family and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = ["recurrent_init", "forget_bias", "chrono"]
    if family and cell.start_chrono is Cell.start_chrono:
        names.remove("chrono")
    if family and cell.forget_gate is None:
        names.remove("forget_bias")
    return [name for name in names if passes_on or name in parameters]


def parameters_of(network: nnx.Module) -> Parameters:
    """The parameters of a network as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def network_with(program: Program, parameters: Parameters) -> Network:
    """The network that has these parameters, as `parameters_of` gives them; costs no copy."""
    definition, states = _split(program)
    state, rest = jax.tree.map(lambda leaf: leaf, states)  # new variables, of the present trace
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(definition, state, rest)


@lru_cache(maxsize=32)
def _split(program: Program) -> Any:
    """Definition, abstract parameters, and whatever else a network holds (none of ours does)."""
    split: Any = nnx.split  # whose types do not know how many parts come back

    def build() -> Network:
        return new_network(program, jax.random.key(0))

    definition, state, rest = split(nnx.eval_shape(build), nnx.Param, ...)
    if jax.tree.leaves(rest):  # such as the random state of a module of the user's
        with jax.ensure_compile_time_eval():
            definition, _, rest = split(build(), nnx.Param, ...)
    return definition, (state, rest)
