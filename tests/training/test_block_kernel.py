"""A block of training steps as one kernel, interpreted, is the same training."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.cells.kernels import Kernels
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.training import block_kernel, experiment
from srn_jax.training.model import hyperparameters_of


def program_and_arrays(cell="srn", length=5, width=7):
    settings = ExperimentConfig(
        cell=cell, hidden_size=16, embedding_size=16, steps=42, eval_interval=40
    )
    program = experiment.program_of(SweepConfig((length,), (0,), settings), form=Kernels())
    prepare = jax.jit(partial(experiment.prepare, program, width))
    return program, prepare(np.uint32(0), np.int32(length), hyperparameters_of(settings))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["srn", "residual-srn", "lstm", "gru"])
def test_a_block_is_the_same_training(cell):
    """Forty-one steps: the last batch, of four, and the first one again; then a block of one."""
    program, (state, histories, data) = program_and_arrays(cell)
    assert block_kernel.applies(program)
    plain = replace(program, form=None)
    run = jax.jit(experiment.advance, static_argnums=(0, 1))
    blocks = jnp.int32(0), jnp.int32(2)
    ours, recorded = run(program, ((7, True),), 0, data, state, histories, *blocks)
    theirs, expected = run(plain, ((7, True),), 0, data, state, histories, *blocks)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(
        recorded.steps["train_loss"], expected.steps["train_loss"], atol=1e-5
    )
    assert np.isfinite(recorded.steps["train_loss"]).sum() == 42


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "adding"},
        {"clip_norm": 1.0},
        {"optimizer": "sgd"},
        {"fresh_data": True},
        {"embedding_size": 20},
    ],
)
def test_what_a_block_kernel_cannot_do_is_left_to_the_loop(settings):
    config = SweepConfig((5,), (0,), ExperimentConfig(**settings))
    assert not block_kernel.applies(experiment.program_of(config, form=Kernels()))
