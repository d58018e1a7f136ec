"""The GPU kernel, interpreted, trains as the plain loop does; where it cannot, that does."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax import kernels
from srn_jax.cells import GRU, LSTM, SRN, Cell, ResidualSRN
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.kernels.residuals import Residuals
from srn_jax.tasks.digit_sum import DigitSum
from srn_jax.tasks.task import Examples
from srn_jax.training import experiment
from srn_jax.training.experiment import prepare, take_steps
from srn_jax.training.network import hyperparameters_of
from srn_jax.training.program import program_of

LENGTH, WIDTH = 4, 6


class Strange(Cell):
    """Its pullback keeps a mask, a side and a state; its second gate has no recurrent side."""

    gates = 2
    states = 2
    recurrent_bias = True

    def update(self, x, h, state):
        memory = 0.9 * state[1] + jax.nn.relu(x[0] + h[0]) * x[1]
        return jnp.sin(memory + x[1]) - 0.1 * x[1] * state[0], memory


class Ragged(DigitSum):
    """Digits of sequences that are not all of one length, some of which count more."""

    def draw(self, key, number, length, width):
        drawn = super().draw(key, number, length, width)
        lengths = 2 + jnp.arange(number) % (length - 1)
        return Examples(*drawn[:2], lengths, 1.0 + jnp.arange(number) % 3)


@cache
def trained(cell, kernel, double=False, **settings):
    """Parameters, moments and losses after two blocks of a short experiment.

    The second block is short, the last batch of an epoch is not full, and sequences are padded.
    """
    given = {"steps": 12, "eval_interval": 8, "multiplicity": 1, "hidden_size": 16} | settings
    config = SweepConfig((LENGTH,), (3,), ExperimentConfig(cell=cell, **given))
    program = replace(program_of(config), kernel=kernel)
    assert kernels.applies(program)
    hyper = hyperparameters_of(config.experiment)

    def begin():
        return prepare(program, WIDTH, jnp.uint32(3), jnp.int32(LENGTH), hyper)

    start = jax.tree.map(np.asarray, jax.jit(begin)())  # the same numbers, in either type

    @jax.jit
    def run(state, data):
        if double:
            state, data = (
                jax.tree.map(lambda a: jnp.float64(a) if a.dtype == np.float32 else a, tree)
                for tree in (state, data)
            )
        parameters, optimizer, losses = state.parameters, state.optimizer, []
        for block in range(2):
            parameters, optimizer, recorded = take_steps(
                program, WIDTH, True, data, jnp.int32(block), parameters, optimizer
            )
            losses.append(recorded["train_loss"])
        return parameters, optimizer, losses

    with jax.enable_x64(double), pytest.MonkeyPatch.context() as patch:
        if double:  # losses are kept in float32
            patch.setattr(
                experiment, "put", lambda a, value, place: a.at[place].set(jnp.float32(value))
            )
        return jax.tree.map(np.asarray, run(start[0], start[2]))


def assert_close(ones, others, tolerance):
    """Within a part of the largest number of each array; NaN where NaN is."""
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        largest = np.nanmax(np.abs(other), initial=1e-30)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize(
    ("cell", "settings"),
    [
        *((cell, {}) for cell in (SRN, ResidualSRN, LSTM, GRU, Strange)),
        (SRN, {"embedding_size": 64, "hidden_size": 32, "batch_size": 11}),
        (SRN, {"optimizer": "adamw", "weight_decay": 0.1, "loss_reduction": "sum"}),
        (GRU, {"optimizer": "rmsprop", "clip_norm": 0.05}),
        (SRN, {"optimizer": "sgd", "clip_norm": 0.05, "clip": "global", "weight_decay": 0.1}),
        (LSTM, {"task": Ragged, "clip_norm": 1e-3}),
        (Strange, {"task": Ragged}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else value.__name__,
)
def test_a_block_in_a_kernel_is_the_plain_loop(cell, settings):
    settings = {"learning_rate": 0.01, **settings}
    assert_close(trained(cell, True, **settings), trained(cell, False, **settings), 1e-5)


@pytest.mark.parametrize("cell", [SRN, LSTM, GRU])
def test_a_kernel_is_as_near_to_float64_as_the_plain_loop(cell):
    """Gradients are the moments of Adam; each is a sum, so its error is a part of the largest."""
    right = trained(cell, False, double=True, learning_rate=0.01)
    assert_close(trained(cell, True, learning_rate=0.01), right, 1e-5)


def test_what_a_pullback_keeps_is_stored_only_where_it_cannot_be_computed_again():
    stored = {cell: Residuals(cell, (8, 16)).arrays for cell in (SRN, ResidualSRN, LSTM)}
    assert stored == {SRN: 0, ResidualSRN: 1, LSTM: 5}
    assert Residuals(GRU, (8, 16)).arrays == 4  # r, z, n, and a side


class Module(nnx.Module):
    """Of the user's, not of the family."""


@pytest.mark.parametrize(
    ("device", "cell", "settings", "expected"),
    [
        (("gpu", "NVIDIA H200", "9.0"), LSTM, {}, True),
        (("gpu", "NVIDIA A100-SXM4-40GB", "8.0"), SRN, {"hidden_size": 64}, True),
        (("gpu", "Tesla T4", "7.5"), SRN, {}, False),
        (("gpu", "AMD Instinct MI300X", "gfx942"), SRN, {}, False),
        (("cpu", "cpu", ""), SRN, {}, False),
        (("gpu", "NVIDIA H200", "9.0"), SRN, {"hidden_size": 48}, False),
        (("gpu", "NVIDIA H200", "9.0"), Module, {}, False),
        (("gpu", "NVIDIA H200", "9.0"), SRN, {"layers": 2}, False),
    ],
)
def test_kernels_are_chosen_where_they_suit(device, cell, settings, expected, monkeypatch):
    monkeypatch.setattr(kernels, "understood", lambda _: True)
    platform, kind, capability = device
    given = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    assert kernels.suits(given, cell, ExperimentConfig(**settings)) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 48},
        {"task": "adding"},
        {"bidirectional": True},
        {"schedule": "cosine"},
        {"fresh_data": True},
    ],
    ids=str,
)
def test_what_a_kernel_cannot_do_is_left_to_the_loops(settings):
    assert not kernels.applies(program_of(SweepConfig(experiment=ExperimentConfig(**settings))))


class Sorting(Cell):
    """Its units depend on each other, which no cell of the family may."""

    def update(self, x, h, state):
        return jnp.sort(x[0] + h[0], axis=-1)


class Digamma(Cell):
    """Elementwise, but of a function that Triton does not know."""

    def update(self, x, h, state):
        return jax.scipy.special.digamma(2 + jnp.tanh(x[0] + h[0]))


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11) and jax.default_backend() != "gpu",
    reason="this JAX makes no kernel where there is no GPU",
)
@pytest.mark.parametrize(
    ("cell", "expected"), [(SRN, True), (Strange, True), (Sorting, False), (Digamma, False)]
)
def test_a_cell_that_the_kernels_do_not_understand_is_left_to_the_loops(cell, expected):
    assert kernels.understood(cell) == expected


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):  # a JAX without the Triton backend
    def find_spec(self, name, path, target=None):
        if name.startswith(("jax.experimental.pallas", "jax._src.pallas.triton")):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
from types import SimpleNamespace
from srn_jax import kernels
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import Sweep

gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", compute_capability="9.0")
assert not kernels.suits(gpu, kernels.Cell, ExperimentConfig())
sweep = Sweep([SweepConfig((5,), (0,), ExperimentConfig(steps=2))], kernel=True)
sweep.prepare()
sweep.advance(0, len(sweep.eval_steps))
assert sweep.gather_histories()["train_loss"].shape == (1, 2)
assert "jax.experimental.pallas" not in sys.modules
"""


def test_a_jax_without_triton_trains_by_the_plain_loops():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
