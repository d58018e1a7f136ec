"""Initial weights, by the names that the command line has for them."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.config import RECURRENT_INITS, check

xavier = nnx.initializers.xavier_uniform()


def uniform(limit: float) -> nnx.Initializer:
    """An initializer that is uniform on +-limit."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, minval=-limit, maxval=limit
    )


def recurrent_initializer(name: str) -> nnx.Initializer:
    """The initializer of the recurrent weights `[D, D]` of a gate, of `config.RECURRENT_INITS`.

    `orthogonal` is Saxe et al. (2014), `identity` Le et al. (2015), `pytorch` the default of
    `torch.nn.RNN`: uniform on +-1/sqrt(D).
    """
    check("recurrent_init", name, str, choices=RECURRENT_INITS)
    return {
        "xavier": xavier,
        "orthogonal": nnx.initializers.orthogonal(),
        "identity": lambda key, shape, dtype=jnp.float32: jnp.eye(shape[0], dtype=dtype),
        "pytorch": lambda key, shape, dtype=jnp.float32: uniform(1 / math.sqrt(shape[0]))(
            key, shape, dtype
        ),
    }[name]
