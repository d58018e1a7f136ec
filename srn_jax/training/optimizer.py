"""The optimizers, with the learning rate and the clipping norm as data."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from srn_jax.config import ExperimentConfig
from srn_jax.training.model import Hyperparameters


def new_optimizer(config: ExperimentConfig, hyper: Hyperparameters) -> optax.GradientTransformation:
    """Adam (betas 0.9 and 0.999, eps 1e-8), plain SGD or RMSprop (decay 0.9), of one vector."""
    rate = hyper.learning_rate
    if config.optimizer == "adam":
        return optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)
    if config.optimizer == "sgd":
        return optax.sgd(rate)
    # Optax adds eps under the root, PyTorch 1e-8 beside it, which makes the steps of the smallest
    # gradients shorter: of 1e-7 by a tenth.
    return optax.rmsprop(rate, decay=0.9, eps=1e-16)


def clip(config: ExperimentConfig, hyper: Hyperparameters, gradient: Any) -> Any:
    """Gradients times norm / |g| where |g| > norm, of each tensor by itself or of all together."""
    if config.clip_norm is None:
        return gradient
    sizes = jax.tree.map(jnp.linalg.norm, gradient)
    if config.clip == "global":
        size = jnp.linalg.norm(jnp.stack(jax.tree.leaves(sizes)))
        sizes = jax.tree.map(lambda _: size, sizes)
    norm = hyper.clip_norm
    return jax.tree.map(lambda g, n: g * jnp.where(n > norm, norm / n, 1.0), gradient, sizes)
