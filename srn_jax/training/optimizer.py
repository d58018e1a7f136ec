"""The optimizers, with the learning rate and the clipping norm as data."""

import jax
import jax.numpy as jnp
import optax

from srn_jax.config import ExperimentConfig
from srn_jax.training.model import Hyperparameters


def new_optimizer(
    config: ExperimentConfig, hyper: Hyperparameters
) -> optax.GradientTransformationExtraArgs | optax.GradientTransformation:
    """Adam (betas 0.9 and 0.999, eps 1e-8), plain SGD or RMSprop (decay 0.9), after clipping.

    The parameters are one flat vector to it: that changes no value and makes one small program of
    what would be one for each tensor. Clipping comes before, since it looks at tensors.
    """
    kinds = {
        "adam": lambda rate: optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8),
        "sgd": optax.sgd,
        # Optax adds eps under the root, PyTorch 1e-8 beside it; where it counts they are the same.
        "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.9, eps=1e-16),
    }
    optimizer = optax.flatten(kinds[config.optimizer](hyper.learning_rate))
    if config.clip_norm is None:
        return optimizer
    return optax.chain(clipping(config.clip, hyper.clip_norm), optimizer)


def clipping(what: str, norm: jax.Array | float) -> optax.GradientTransformation:
    """G * norm / |g| where |g| > norm, for each tensor by itself or for all of them together."""

    def update(gradient, state, parameters=None):
        del parameters
        sizes = jax.tree.map(jnp.linalg.norm, gradient)
        if what == "global":
            size = jnp.linalg.norm(jnp.stack(jax.tree.leaves(sizes)))
            sizes = jax.tree.map(lambda _: size, sizes)
        return jax.tree.map(lambda g, size: g * shrink(size, norm), gradient, sizes), state

    return optax.GradientTransformation(lambda parameters: optax.EmptyState(), update)


def shrink(size: jax.Array, norm: jax.Array | float) -> jax.Array:
    """The factor that brings a size down to at most `norm`."""
    return jnp.where(size > norm, norm / size, 1.0)
