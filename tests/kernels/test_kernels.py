"""The GPU kernel, interpreted, trains as the plain loop does; where it cannot, that does."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srn_jax import kernels
from srn_jax.cells import GRU, LSTM, SRN, Cell, ResidualSRN
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.kernels.residuals import Residuals
from srn_jax.training import experiment
from srn_jax.training.experiment import prepare, take_steps
from srn_jax.training.program import hyperparameters_of, program_of

# jax 0.7 has it elsewhere.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64

LENGTH, WIDTH = 4, 6


class Strange(Cell):
    """Its pullback keeps a mask, a side and a state; its second gate has no recurrent side."""

    gates = 2
    states = 2
    recurrent_bias = True

    def update(self, x, h, state):
        memory = 0.9 * state[1] + jax.nn.relu(x[0] + h[0]) * x[1]
        return jnp.sin(memory + x[1]) - 0.1 * x[1] * state[0], memory


@cache
def trained(cell, kernel, double=False, **settings):
    """Parameters, moments and losses after two blocks of a short experiment.

    The second block is short, the last batch of an epoch is not full, and sequences are padded.
    """
    given = {"steps": 12, "eval_interval": 8, "multiplicity": 1, "learning_rate": 0.01}
    given |= {"hidden_size": 16} | settings
    config = SweepConfig((LENGTH,), (3,), ExperimentConfig(cell=cell, **given))
    program = replace(program_of(config), kernel=kernel)
    assert kernels.applies(program)
    hyper = hyperparameters_of(config.experiment)

    def as_asked(array):  # the same numbers, in either type
        return np.asarray(array, np.float64 if double and array.dtype == np.float32 else None)

    start = jax.jit(lambda: prepare(program, WIDTH, jnp.uint32(3), jnp.int32(LENGTH), hyper))()
    start = jax.tree.map(as_asked, start)

    @jax.jit
    def run(state, data):
        parameters, optimizer, losses = state.parameters, state.optimizer, []
        for block in range(2):
            parameters, optimizer, recorded = take_steps(
                program, WIDTH, True, data, jnp.int32(block), parameters, optimizer
            )
            losses.append(recorded["train_loss"])
        return parameters, optimizer, losses

    with enable_x64(double), pytest.MonkeyPatch.context() as patch:
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
        (LSTM, {"batch_size": 16, "loss_reduction": "sum"}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else value.__name__,
)
def test_a_block_in_a_kernel_is_the_plain_loop(cell, settings):
    assert_close(trained(cell, True, **settings), trained(cell, False, **settings), 1e-5)


@pytest.mark.parametrize("cell", [SRN, LSTM, GRU])
def test_a_kernel_is_as_near_to_float64_as_the_plain_loop(cell):
    """Gradients are the moments of Adam; each is a sum, so its error is a part of the largest."""
    assert_close(trained(cell, True), trained(cell, False, double=True), 1e-5)


def test_what_a_pullback_keeps_is_stored_only_where_it_cannot_be_computed_again():
    stored = {cell: Residuals(cell, (8, 16)).arrays for cell in (SRN, ResidualSRN, LSTM)}
    assert stored == {SRN: 0, ResidualSRN: 1, LSTM: 5}
    assert Residuals(GRU, (8, 16)).arrays == 4  # r, z, n, and a side


class Module(nnx.Module):
    """Of the user's, not of the family."""


H200 = ("gpu", "NVIDIA H200", "9.0")
UNKNOWN = {"cell": Module, "hidden_size": 48, "layers": 2, "bidirectional": True, "task": "adding"}
UNKNOWN |= {"optimizer": "sgd", "clip_norm": 1.0, "schedule": "cosine", "fresh_data": True}


@pytest.mark.parametrize(
    ("device", "settings", "expected"),
    [
        (H200, {"cell": LSTM}, True),
        (("gpu", "NVIDIA A100-SXM4-40GB", "8.0"), {"hidden_size": 64, "cell": Strange}, True),
        (("gpu", "Tesla T4", "7.5"), {}, False),
        (("gpu", "AMD Instinct MI300X", "gfx942"), {}, False),
        (("cpu", "cpu", ""), {}, False),
        *((H200, {name: value}, False) for name, value in UNKNOWN.items()),
    ],
    ids=str,
)
def test_kernels_are_chosen_where_they_suit(device, settings, expected):
    platform, kind, capability = device
    given = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    program = program_of(SweepConfig(experiment=ExperimentConfig(**settings)))
    assert kernels.suits(given, program) == expected
    for own in ({"lengths": 1, "asked": None}, {"lengths": None, "asked": 1}):
        assert not kernels.applies(program, SimpleNamespace(**own))


def test_kernels_are_tried_before_they_train_and_given_up_with_one_line(monkeypatch, capsys):
    """They agree; what they give is a little wrong; they cannot be compiled."""
    program = program_of(SweepConfig(experiment=ExperimentConfig(hidden_size=16)))
    right = kernels.train_block

    def tried():
        return kernels.agrees.__wrapped__(program, experiment, hyperparameters_of)

    def wrong(*arguments):
        parameters, optimizer, losses = right(*arguments)
        return parameters, optimizer, losses.at[-1].multiply(1.001)

    def broken(*_):
        raise NotImplementedError("no such\noperation")

    assert tried() and not capsys.readouterr().err
    for block, reason in ((wrong, "losses are"), (broken, "NotImplementedError: no such op")):
        monkeypatch.setattr(kernels, "train_block", block)
        assert not tried()
        said = capsys.readouterr().err
        assert reason in said and "plain loops train" in said and said.count("\n") == 1


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):  # a JAX without the Triton backend
    def find_spec(self, name, path, target=None):
        if name.startswith(("jax.experimental.pallas", "jax._src.pallas.triton")):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import Sweep

sweep = Sweep([SweepConfig((5,), (0,), ExperimentConfig(steps=2))], kernel=True)
assert not sweep.program.kernel
sweep.prepare()
sweep.advance(0, len(sweep.eval_steps))
assert sweep.gather_histories()["train_loss"].shape == (1, 2)
"""


def test_a_jax_without_triton_trains_by_the_plain_loops():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "plain loops train: ModuleNotFoundError" in done.stderr
