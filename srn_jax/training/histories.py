"""What is kept of ONE experiment: arrays by name, NaN for what is not reached.

A block writes a stretch of each; behind the last there is room, so all may be as long as any.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from srn_jax.training.probes import LOSS
from srn_jax.training.program import Program

Histories = dict[str, Any]
PROBE = "probe."  # begins the names of what probes record


def spanned(program: Program, stretch: int) -> int:
    """How many stretches of so many steps a block takes part in, at most."""
    return (program.places - 2) // stretch + 2


def size_of(program: Program, name: str) -> tuple[int, int]:
    """The entries of a history, and the room behind them."""
    if name in ("dev_loss", "dev_accuracy"):
        return len(program.eval_steps), 0
    if name == "epoch_loss":
        size = program.steps_an_epoch
        return -(-program.steps // size), spanned(program, size)
    if name == LOSS:
        return len(program.loss_steps), spanned(program, program.loss_stride)
    return program.steps, program.places


def empty_histories(program: Program, recorded: Iterable[str]) -> Histories:
    """Histories of an experiment that has not begun, of whose steps so much is recorded."""
    probes = [PROBE + name for name in recorded if name != LOSS]
    names = sorted(["dev_accuracy", "dev_loss", "epoch_loss", LOSS, *probes])
    return {n: jnp.full(sum(size_of(program, n)), jnp.nan, jnp.float32) for n in names}


def with_block(program: Program, histories: Histories, block, recorded, evaluated) -> Histories:
    """Histories with what a block has recorded of its steps, `[place]` each, and its evaluation."""
    start, end = (jnp.asarray(ends)[block] for ends in (program.starts, program.eval_steps))
    first = -(-start // program.loss_stride)
    steps = (first + jnp.arange(spanned(program, program.loss_stride))) * program.loss_stride
    losses = recorded[LOSS][jnp.minimum(steps - start, program.places - 1)]
    new = {name: (block, value[None]) for name, value in evaluated.items()}
    new |= {PROBE + name: (start, row) for name, row in recorded.items() if name != LOSS}
    new[LOSS] = first, jnp.where(steps <= end, losses, jnp.nan)

    # Mean losses of the epochs that it takes part in: of the steps taken so far.
    size = program.steps_an_epoch
    span, epoch, before = spanned(program, size), start // size, start % size
    losses = jnp.where(start + jnp.arange(program.places) <= end, recorded[LOSS], 0)
    room = jnp.zeros(span * size + program.places, losses.dtype)
    room = jax.lax.dynamic_update_slice(room, losses, (before,))
    sums = jnp.sum(room[: span * size].reshape(span, size), axis=1)
    reached = jnp.clip(end + 1 - (epoch + jnp.arange(span)) * size, 0, size)  # steps of each
    earlier = jnp.where(jnp.arange(span) == 0, before, 0)
    old = jax.lax.dynamic_slice(histories["epoch_loss"], (epoch,), (span,))
    sums = sums + jnp.where(earlier > 0, old * earlier, 0)
    new["epoch_loss"] = epoch, jnp.where(reached > earlier, sums / jnp.maximum(reached, 1), old)

    put = jax.lax.dynamic_update_slice
    return {name: put(histories[name], values, (at,)) for name, (at, values) in new.items()}
