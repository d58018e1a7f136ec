"""The network: inputs -> embedding -> recurrent cells -> linear -> answers.

Its flax.nnx modules are nested dictionaries of arrays to training. Shapes: `batch`, `time`, `M`
embedding size (or the size of vector inputs), `D` hidden size, twice that behind two directions.
"""

import inspect
import math
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells import Cell
from srn_jax.cells.initializers import recurrent_initializer, uniform, xavier
from srn_jax.cells.recurrence import How, layer, output, product
from srn_jax.config import DEFAULTS
from srn_jax.errors import UserError
from srn_jax.own_files import own_mistakes
from srn_jax.tasks.task import Task, Tokens, blank_tokens
from srn_jax.training.checks import checked
from srn_jax.training.program import Hyperparameters, Program, hyperparameters_of

Parameters = dict[str, Any]  # arrays by module and name
FOLDED = 256  # tokens, at most, of which the input side of a cell is computed once for each


class Embedding(nnx.Module):
    """A vector for each token: rows of a table `[vocabulary, M]`."""

    def __init__(self, vocabulary: int, size: int, *, rngs: nnx.Rngs, init: str = "xavier"):
        draw = xavier if init == "xavier" else jax.random.normal
        self.table = nnx.Param(draw(rngs.params(), (vocabulary, size), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look the tokens up by index: `[...]` -> `[..., M]`."""
        return self.table[...][tokens]


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
        platform: str | None = None,  # for which the loops are written
        **cell_options: Any,
    ):
        """The cells, each cell(M, D, rngs=..., ...), are `cell`, `cell_2`, ..., and `cell_back`,
        `cell_2_back`, ..., which run from the last position to the first.
        """  # noqa: D205
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
        self.output = nnx.Linear(size, task.outputs, kernel_init=limit, bias_init=limit, rngs=rngs)

    def __call__(self, inputs: Any, mask: Any = None, plain: bool = False) -> jax.Array:
        """Answers `[batch, outputs]`, or `[batch, answers, outputs]` where there are several.

        Args:
            inputs: tokens `[batch, time]` or vectors `[batch, time, size]`.
            mask: `[batch, time]` or `[1, time]`, False where a sequence has not begun yet; or None.
            plain: leave the recurrence's derivative to autodiff: slower, and knows forward mode.

        Raises:
            UserError: a `ValueError`, for tokens out of range, or another shape.
        """
        inputs, mask = checked(inputs, mask, self.inputs, self.answers or 1)
        if self.answers == 1:
            return self.linear(self.states(inputs, mask, plain, last=True), plain)
        return self.answer(self.states(inputs, mask, plain), plain)

    def linear(self, states: jax.Array, plain: bool = False) -> jax.Array:
        """The linear layer, `[..., D]` -> `[..., outputs]`."""
        sums = (product if plain else layer)(states, self.output.kernel[...])
        bias: Any = self.output.bias
        return sums + bias[...].reshape(*[1] * (sums.ndim - 1), -1)

    def answer(self, states: jax.Array, plain: bool = False) -> jax.Array:
        """The answers that the last of the hidden states `[time, batch, D]` give."""
        if self.answers == 1:  # backward, a sequence ends where it begins
            ends = [states[-1, :, : self.hidden_size], states[0, :, self.hidden_size :]]
            return self.linear(jnp.concatenate(ends, axis=-1), plain)
        first = 0 if self.answers is None else -self.answers
        return self.linear(jnp.swapaxes(states[first:], 0, 1), plain)

    def states(self, inputs, mask=None, plain: bool = False, last: bool = False) -> jax.Array:
        """The hidden states of the top layer, time-major: `[time, batch, D]`.

        With `last` those after the last position a layer reads alone, `[batch, D]`.
        """
        if not isinstance(self.inputs, Tokens):
            inputs = jnp.asarray(inputs, self.output.kernel[...].dtype)
        elif mask is not None:  # whatever a task has drawn there
            inputs = blank_tokens(inputs, mask)
        below = jnp.swapaxes(inputs, 0, 1)
        for number, names in enumerate(self.cells):
            alone = last and number == len(self.cells) - 1
            read = [self.read(name, below, mask, plain, alone) for name in names]
            below = read[0] if len(read) == 1 else jnp.concatenate(read, axis=-1)
        return below

    def read(self, name: str, below: jax.Array, mask, plain: bool, last: bool) -> jax.Array:
        """The states `[time, batch, D]` of a cell that reads `below`, or its last alone.

        There are only a few tokens, so for them the input side of a cell of the family is folded:
        embedding @ W + b is computed once for each token, and every position takes a row of that.
        """
        cell, back = getattr(self, name), name.endswith("_back")
        tokens = name in self.cells[0] and isinstance(self.inputs, Tokens)
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


def states_of_module(cell, size: int, below: jax.Array, mask, back: bool, last: bool) -> jax.Array:
    """The states `[time, batch, size]` of a module of another family, or the last alone.

    It is called with inputs `[batch, time, M]` and a mask `[batch, time]`, and padding goes behind
    the sequences: a module that only looks back need not mind it.
    """
    vectors = jnp.swapaxes(below, 0, 1)
    whole, time = vectors.shape[:2], len(below)
    start = 0 if mask is None else jnp.argmax(mask, axis=1)[:, None]
    place = jnp.arange(time)[None]
    there, again = (place + start) % time, (place - start) % time
    if back:  # in padding the state stays
        there, again = time - 1 - place, time - 1 - jnp.maximum(place, start)

    def taken(array: jax.Array, places: jax.Array) -> jax.Array:
        if mask is None and not back:
            return array
        return jnp.take_along_axis(array, places[..., None], axis=1)

    kept = jnp.broadcast_to(True if mask is None else mask, whole)
    states = cell(taken(vectors, there), taken(kept[..., None], there)[..., 0])
    if (found := getattr(states, "shape", None)) != (*whole, size):
        wanted = f"expected states [batch, time, hidden_size], here {(*whole, size)}"
        raise UserError(f"{type(cell).__name__} returns {found}, {wanted}")
    states = jnp.swapaxes(taken(states, again), 0, 1)
    return states[0 if back else -1] if last else states


def new_network(program: Program, key: jax.Array, hyper: Hyperparameters | None = None) -> Network:
    """A network of the program's kind, whose parameters are drawn from a key as `hyper` says."""
    config = program.config
    hyper = hyperparameters_of(DEFAULTS) if hyper is None else hyper
    init = recurrent_initializer(config.recurrent_init)
    options = {"recurrent_init": init, "forget_bias": hyper.forget_bias}
    if config.chrono is not None:
        options["chrono"] = hyper.chrono
    taken = inspect.signature(program.cell.__init__).parameters
    if not issubclass(program.cell, Cell) or all(p.kind != p.VAR_KEYWORD for p in taken.values()):
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
    split: Any = nnx.split  # whose types do not know how many parts come back
    build = partial(new_network, program, jax.random.key(0))
    definition, state, rest = split(nnx.eval_shape(build), nnx.Param, ...)
    if jax.tree.leaves(rest):  # such as the random state of a module of the user's
        with jax.ensure_compile_time_eval():
            definition, _, rest = split(build(), nnx.Param, ...)
    return definition, (state, rest)
