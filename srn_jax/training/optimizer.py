"""The optimizers, with the learning rate, weight decay and the clipping norm as data."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from srn_jax.config import ExperimentConfig
from srn_jax.errors import UserError
from srn_jax.own_files import describe, own_mistakes
from srn_jax.training.program import Hyperparameters, Program


def new_optimizer(program: Program, hyper: Hyperparameters) -> optax.GradientTransformation:
    """Adam, or AdamW, which is that with a weight decay, SGD, RMSprop, or the user's."""
    config, own, rate = program.config, program.config.optimizer, rate_of(program, hyper)
    if not isinstance(own, str):  # an optimizer, or a function that may take `learning_rate`
        found = own
        if not hasattr(own, "update") and callable(own):
            with own_mistakes(own):
                takes_rate = "learning_rate" in inspect.signature(own).parameters
                found = own(learning_rate=rate) if takes_rate else own()
        if hasattr(found, "init") and hasattr(found, "update"):
            return found
        raise UserError(
            f"`optimizer` {describe(own)}: expected an optax.GradientTransformation, or a function "
            f"that returns one, got {type(found).__name__}"
        )
    decay = hyper.weight_decay if config.weight_decay else None
    if config.optimizer == "sgd":
        found = optax.sgd(rate)
        if decay is not None:
            found = optax.chain(optax.add_decayed_weights(decay), found)
    elif config.optimizer == "rmsprop":
        # Optax adds eps under the root, PyTorch 1e-8 beside it, which makes the steps of the
        # smallest gradients shorter: of 1e-7 by a tenth.
        found = optax.rmsprop(rate, decay=0.9, eps=1e-16)
    else:
        found = optax.adam(rate) if decay is None else optax.adamw(rate, weight_decay=decay)

    # They treat all numbers alike, so all parameters are one vector: of a tensor each XLA would
    # make many small programs.
    def init(parameters: Any) -> Any:
        return found.init(ravel_pytree(parameters)[0])

    def update(gradient: Any, state: Any, parameters: Any = None) -> Any:
        vector, unravel = ravel_pytree(gradient)
        updates, state = found.update(vector, state, ravel_pytree(parameters)[0])
        return unravel(updates), state

    return optax.GradientTransformation(init, update)


def rate_of(program: Program, hyper: Hyperparameters) -> Any:
    """The learning rate, or a function of the step from 0 on.

    A cosine ends at 0 after all steps; a warm-up first takes a tenth of them along a line.
    """
    config, peak, steps = program.config, hyper.learning_rate, program.steps
    if callable(config.learning_rate):
        return config.learning_rate
    if config.schedule == "constant":
        return peak
    warm = max(1, steps // 10) if config.schedule == "warmup-cosine" else 0

    def schedule(step: jax.Array) -> jax.Array:
        rising = (step + 1) / max(warm, 1)
        part = jnp.clip((step - warm) / max(steps - warm, 1), 0, 1)
        return peak * jnp.where(step < warm, rising, (1 + jnp.cos(math.pi * part)) / 2)

    return schedule


def clip(config: ExperimentConfig, hyper: Hyperparameters, gradient: Any) -> Any:
    """Gradients times norm / |g| where |g| > norm, of each tensor by itself or of all together."""
    if config.clip_norm is None:
        return gradient
    leaves, tree = jax.tree.flatten(gradient)
    clipped = []
    for tensors in [leaves] if config.clip == "global" else [[leaf] for leaf in leaves]:
        # In units of the largest number: its square may be more than float32 can hold.
        unit = jnp.max(jnp.stack([jnp.max(jnp.abs(tensor)) for tensor in tensors]))
        unit = jnp.where(unit > 0, unit, 1)
        size, norm = jnp.sqrt(sum(jnp.sum((t / unit) ** 2) for t in tensors)), hyper.clip_norm
        clipped += [jnp.where(size > norm / unit, t / unit * (norm / size), t) for t in tensors]
    return jax.tree.unflatten(tree, clipped)
