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
from srn_jax.training.network import Hyperparameters
from srn_jax.training.program import Program

Rate = Any  # a number or a function of the step


def new_optimizer(program: Program, hyper: Hyperparameters) -> optax.GradientTransformation:
    """The optimizer of a program, for trees of parameters.

    Adam (betas 0.9 and 0.999, eps 1e-8) and AdamW, which is that with a weight decay, SGD, RMSprop
    (decay 0.9), or the user's: an object of optax, or a function that returns one and may ask for
    the learning rate by that name.
    """
    config, rate = program.config, rate_of(program, hyper)
    if not isinstance(config.optimizer, str):
        return own_optimizer(config.optimizer, rate)
    decay = hyper.weight_decay if config.weight_decay else None
    if config.optimizer == "sgd":
        found = optax.sgd(rate)
        if decay is not None:
            found = optax.chain(optax.add_decayed_weights(decay), found)
    elif config.optimizer == "rmsprop":
        # Optax adds eps under the root, PyTorch 1e-8 beside it, which makes the steps of the
        # smallest gradients shorter: of 1e-7 by a tenth.
        found = optax.rmsprop(rate, decay=0.9, eps=1e-16)
    elif decay is None:
        found = optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)
    else:
        found = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=decay)
    return as_vector(found)


def own_optimizer(own: Any, rate: Rate) -> optax.GradientTransformation:
    """The optimizer that an object of the user's is or returns; raises `UserError` for no such."""
    found = own
    if not _is_optimizer(own) and callable(own):
        with own_mistakes(own):
            takes_rate = "learning_rate" in inspect.signature(own).parameters
            found = own(learning_rate=rate) if takes_rate else own()
    if not _is_optimizer(found):
        raise UserError(
            f"`optimizer` {describe(own)}: expected an optax.GradientTransformation, or a function "
            f"that returns one, got {type(found).__name__}"
        )
    return found


def _is_optimizer(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def as_vector(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that treats all numbers alike, working on all parameters as one vector.

    Of a tensor each XLA would make many small programs.
    """

    def init(parameters: Any) -> Any:
        return optimizer.init(ravel_pytree(parameters)[0])

    def update(gradient: Any, state: Any, parameters: Any = None) -> Any:
        vector, unravel = ravel_pytree(gradient)
        updates, state = optimizer.update(vector, state, ravel_pytree(parameters)[0])
        return unravel(updates), state

    return optax.GradientTransformation(init, update)


def rate_of(program: Program, hyper: Hyperparameters) -> Rate:
    """The learning rate: a number, or a function of the step, counted from 0.

    A cosine goes from the learning rate to 0 over all steps; a warm-up first takes a tenth of them
    to reach it along a line.
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
    groups = [leaves] if config.clip == "global" else [[leaf] for leaf in leaves]
    clipped = [leaf for group in groups for leaf in _clip_together(group, hyper.clip_norm)]
    return jax.tree.unflatten(tree, clipped)


def _clip_together(tensors: list[jax.Array], norm: jax.Array) -> list[jax.Array]:
    # In units of the largest number: its square may be more than float32 can hold.
    unit = jnp.max(jnp.stack([jnp.max(jnp.abs(tensor)) for tensor in tensors]))
    unit = jnp.where(unit > 0, unit, 1)
    size = jnp.sqrt(sum(jnp.sum((tensor / unit) ** 2) for tensor in tensors))
    return [jnp.where(size > norm / unit, t / unit * (norm / size), t) for t in tensors]
