"""The network: digits -> embedding -> Simple Recurrent Network -> linear -> 19 logits.

The modules are flax.nnx modules and ordinary pytrees of parameters; names are the textbook's
(`W`, `U`, `b`) where it has one. Shapes: `batch`, `time`, `M` embedding size, `D` hidden size.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.recurrence import HIGHEST, product, recurrence
from srn_jax.config import NUM_CLASSES, NUM_DIGITS, ExperimentConfig

Parameters = dict[str, dict[str, jax.Array]]
xavier = nnx.initializers.xavier_uniform()


def uniform(limit: float) -> nnx.Initializer:
    """An initializer that is uniform on +-limit."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, minval=-limit, maxval=limit
    )


def recurrent_initializer(name: str, hidden_size: int) -> nnx.Initializer:
    """The initializer of U `[D, D]` for a name in `config.RECURRENT_INITS`.

    `orthogonal` is Saxe et al. (2014), `identity` Le et al. (2015), `pytorch` the default of
    `torch.nn.RNN`: uniform on +-1/sqrt(D).
    """
    return {
        "xavier": xavier,
        "orthogonal": nnx.initializers.orthogonal(),
        "identity": lambda key, shape, dtype=jnp.float32: jnp.eye(shape[0], dtype=dtype),
        "pytorch": uniform(1 / math.sqrt(hidden_size)),
    }[name]


class Embedding(nnx.Module):
    """A vector for each digit: rows of a table `[digits, M]`."""

    def __init__(
        self,
        num_digits: int,
        embedding_size: int,
        *,
        rngs: nnx.Rngs,
        table: jax.Array | None = None,
    ):
        if table is None:
            table = xavier(rngs.params(), (num_digits, embedding_size))
        self.table = nnx.Param(given(table, (num_digits, embedding_size), "table"))

    def __call__(self, digits: jax.Array) -> jax.Array:
        """Look the digits up by index: `[...]` -> `[..., M]`."""
        return self.table[...][digits]

    def by_one_hot(self, digits: jax.Array) -> jax.Array:
        """The same as a product, one-hot(digits) @ table, whose gradient is a product too."""
        table = self.table[...]
        return product(jax.nn.one_hot(digits, len(table), dtype=table.dtype), table)


class SRN(nnx.Module):
    """Simple Recurrent Network (Elman, 1990): h_t = tanh(x_t W + h_{t-1} U + b).

    Parameters that are given are used; the others are drawn: W `[M, D]` and b `[1, D]` Xavier
    uniform, U `[D, D]` by `recurrent_init`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        W: jax.Array | None = None,
        U: jax.Array | None = None,
        b: jax.Array | None = None,
        recurrent_init: str = "xavier",
    ):
        if W is None:
            W = xavier(rngs.params(), (input_size, hidden_size))
        if U is None:
            initializer = recurrent_initializer(recurrent_init, hidden_size)
            U = initializer(rngs.params(), (hidden_size, hidden_size), jnp.float32)
        if b is None:
            b = xavier(rngs.params(), (1, hidden_size))
        self.W = nnx.Param(given(W, (input_size, hidden_size), "W"))
        self.U = nnx.Param(given(U, (hidden_size, hidden_size), "U"))
        self.b = nnx.Param(given(b, (1, hidden_size), "b"))

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states `[batch, time, D]` of inputs `[batch, time, M]`.

        Args:
            inputs: `[batch, time, M]`.
            initial_state: `[batch, D]`, zero unless given.
            mask: `[batch, time]`; where it is False the state stays as it was.
        """
        ones = jnp.ones((*inputs.shape[:-1], 1), inputs.dtype)
        features = jnp.swapaxes(jnp.concatenate([inputs, ones], axis=-1), 0, 1)
        weight = jnp.concatenate([self.W[...], self.b[...]])
        mask = None if mask is None else mask.T
        return jnp.swapaxes(self.scan(features, weight, initial_state, mask), 0, 1)

    def project(self, inputs: jax.Array) -> jax.Array:
        """The input side of the recurrence, inputs @ W + b: `[rows, M]` -> `[rows, D]`."""
        return product(inputs, self.W[...]) + self.b[...]

    def scan(
        self,
        features: jax.Array,
        input_weight: jax.Array,
        initial_state: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Time-major states `[time, batch, D]`, where features @ input_weight is the input side.

        Args:
            features: `[time, batch, features]`.
            input_weight: `[features, D]`.
            initial_state: `[batch, D]`, zero unless given.
            mask: `[time, batch]`; where it is False the state stays as it was.
        """
        if initial_state is None:
            initial_state = jnp.zeros((features.shape[1], input_weight.shape[1]), features.dtype)
        return recurrence(features, input_weight, self.U[...], initial_state, mask)


class DigitSumClassifier(nnx.Module):
    """The textbook's network: which of the 19 sums do the first two digits have?"""

    def __init__(
        self,
        embedding_size: int = 32,
        hidden_size: int = 32,
        *,
        rngs: nnx.Rngs,
        recurrent_init: str = "xavier",
    ):
        limit = uniform(1 / math.sqrt(hidden_size))
        self.embedding = Embedding(NUM_DIGITS, embedding_size, rngs=rngs)
        self.srn = SRN(embedding_size, hidden_size, rngs=rngs, recurrent_init=recurrent_init)
        self.output = nnx.Linear(
            hidden_size,
            NUM_CLASSES,
            kernel_init=limit,
            bias_init=limit,
            precision=HIGHEST,
            rngs=rngs,
        )

    def __call__(self, digits: jax.Array) -> jax.Array:
        """Logits `[batch, 19]` of digits `[batch, time]`; `data.PADDING` on the left is ignored.

        There are only ten digits, so the input side is folded: embedding @ W + b is computed once
        for each digit, and every position takes a row of that. A padded position takes none, and
        without input a state of zero stays zero.
        """
        rows = self.srn.project(self.embedding.table[...])  # [digits, D]
        one_hot = jax.nn.one_hot(digits.T, NUM_DIGITS, dtype=rows.dtype)  # zeros where padded
        return self.output(self.srn.scan(one_hot, rows)[-1])


def new_classifier(config: ExperimentConfig, key: jax.Array) -> DigitSumClassifier:
    """A classifier of the configured sizes with parameters drawn from `key`."""
    return DigitSumClassifier(
        config.embedding_size,
        config.hidden_size,
        rngs=nnx.Rngs(params=key),
        recurrent_init=config.recurrent_init,
    )


def parameters_of(model: DigitSumClassifier) -> Parameters:
    """The parameters of a classifier as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def classifier_with(parameters: Parameters) -> DigitSumClassifier:
    """The classifier that has these parameters, as `parameters_of` gives them; costs no copy."""
    embedding_size, hidden_size = parameters["srn"]["W"].shape
    config = ExperimentConfig(embedding_size=embedding_size, hidden_size=hidden_size)
    model = nnx.eval_shape(lambda: new_classifier(config, jax.random.key(0)))
    definition, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(definition, state)


def given(value: jax.Array, shape: tuple[int, ...], name: str) -> jax.Array:
    """`value` as an array; raises `ValueError` unless it has the expected shape."""
    value = jnp.asarray(value)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")
    return value
