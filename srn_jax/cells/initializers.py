"""Initial weights, by the names that the command line has for them."""

import math
from typing import Any

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

    `orthogonal` is Saxe et al. (2014), `identity` Le et al. (2015), `pytorch` that of
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


def with_chrono(cell: Any, chrono: jax.Array | float, rngs: nnx.Rngs) -> nnx.Param[jax.Array]:
    """The bias b with +-ln u in `chrono_gates`, u uniform on 1..T_max - 1 (Tallec, 2018)."""
    bias = cell.b[...].reshape(cell.gates, -1)
    shape = (1, bias.shape[1])
    log_u = jnp.log(jax.random.uniform(rngs.params(), shape, jnp.float32, 1, chrono - 1))[0]
    for gate, sign in cell.chrono_gates:
        bias = bias.at[gate].set(sign * log_u)
    return nnx.Param(bias.reshape(1, -1))
