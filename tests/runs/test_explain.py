"""A run explains itself from its checkpoint, and what cannot be explained costs one line."""

import csv
import dataclasses
import shutil
from argparse import Namespace

import numpy as np
import pytest
from running import SMALL, SWEEP, Recorder, Script

from srn_jax.analysis.results import read_results
from srn_jax.cli.explain import examine, explain
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.runs.group import run_sweep
from srn_jax.runs.restore import restore

OPTIONS = Namespace(threshold=0.1, lengths=None, gates=None, seed=None)
OWN = """
import jax.numpy as jnp
from flax import nnx

class Mean(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)

    def __call__(self, inputs, mask):
        seen = jnp.cumsum(self.linear(inputs) * mask[..., None], axis=1)
        return jnp.tanh(seen)
"""


def with_options(**changes):
    return Namespace(**{**vars(OPTIONS), **changes})


@pytest.fixture(scope="module")
def networks(uninterrupted):
    return {which: restore(uninterrupted, which=which).parameters for which in ("best", "last")}


@pytest.fixture(scope="module")
def found(networks):
    return examine(SWEEP, networks, np.zeros(4, bool), 0.1)


def test_the_accuracies_are_those_of_the_results_wherever_they_stand(uninterrupted, found):
    results = read_results(uninterrupted)
    assert found.accuracy[1].tolist() == results.test_accuracy.tolist()
    own = found.unseen[np.arange(4), [0, 0, 1, 1]]
    assert own.tolist() == results.test_accuracy.tolist()


def test_a_diverged_experiment_is_left_out_and_counted(networks, found):
    fewer = examine(SWEEP, networks, np.array([False, True, False, False]), 0.1)
    assert (fewer.diverged, fewer.seed.tolist()) == (1, [0, 0, 1])
    for name in ("readout", "gradient", "product"):
        kept = getattr(found, name)[:, [0, 2, 3]]
        assert np.array_equal(getattr(fewer, name), kept, equal_nan=True)
    with pytest.raises(UserError, match="every experiment diverged"):
        examine(SWEEP, networks, np.ones(4, bool), 0.1)
    with pytest.raises(UserError, match="the run has no length 4, it has 3, 5"):
        examine(SWEEP, networks, np.zeros(4, bool), 0.1, [4])


def test_progress_reaches_the_end(networks):
    told = []
    examine(SWEEP, networks, np.zeros(4, bool), 0.1, [5], lambda *done: told.append(done))
    assert told[-1] == (8, 8) and told == sorted(told)


def test_the_script_writes_everything(uninterrupted, tmp_path):
    out = tmp_path / "out"
    status, said, complaints = Script(
        tmp_path, "explain.py", uninterrupted, "--out", out, "--platform", "cpu"
    ).wait()
    assert (status, complaints) == (0, [])
    assert str(out / "explanation.md") in said
    rows = list(csv.DictReader((out / "networks.csv").read_text().splitlines()))
    assert len(rows) == 3 * 4 and {row["length"] for row in rows} == {"3", "5"}


def test_what_cannot_be_explained_costs_one_line(uninterrupted, stopped_once, tmp_path):
    empty = tmp_path / "without"
    shutil.copytree(uninterrupted, empty, ignore=shutil.ignore_patterns("checkpoints"))
    for run, options, words in (
        (stopped_once, OPTIONS, "is not finished"),
        (empty, OPTIONS, "no checkpoint in it"),
        (uninterrupted, with_options(gates="1 2 0"), "SRN has no gates"),
        (uninterrupted, with_options(gates="1 2 0 0"), "the run has no length 4"),
        (uninterrupted, with_options(gates="1 2 0", seed=7), "the run has no seed 7"),
        (uninterrupted, with_options(gates="1 2 x"), "--gates wants numbers 0 to 9"),
    ):
        with pytest.raises(UserError, match=words) as error:
            explain(run, tmp_path / "out", options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    status, _, complaints = Script(tmp_path, "explain.py", empty, "--platform", "cpu").wait()
    assert status == 2 and len(complaints) == 1


@pytest.mark.slow
def test_other_tasks_and_cells_explain_themselves_too(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    for place, (own, lengths) in enumerate(
        (
            ({"task": "recall", "cell": "lstm", "epochs": 1}, (6, 7)),
            ({"task": "adding", "cell": "gru", "epochs": 1}, (4, 5)),
            ({"cell": f"{tmp_path / 'own.py'}:Mean"}, (3, 5)),
        )
    ):
        config = dataclasses.replace(
            SweepConfig(lengths, (0, 1)), experiment=ExperimentConfig(**SMALL | own)
        )
        run = tmp_path / f"run{place}"
        run_sweep(config, run, Recorder())
        gates = "1 2 8 9 9 9" if own.get("cell") == "lstm" else None
        explain(run, run / "explanation", with_options(gates=gates))
        page = (run / "explanation" / "explanation.md").read_text()
        assert ("not of the family" in page) == ("own.py" in own["cell"])
        assert (run / "explanation" / "gate_F.png").exists() == (gates is not None)
