"""A run explains itself from its checkpoint, and what cannot be explained costs one line."""

import csv
import shutil
from argparse import Namespace

import jax
import numpy as np
import pytest
from running import SMALL, SWEEP, Recorder, Script, with_settings

from srn_jax.analysis.look import Look
from srn_jax.analysis.results import read_results
from srn_jax.cli import explain as explaining
from srn_jax.cli.explain import explain, explain_all
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.runs.examine import examine
from srn_jax.runs.folder import write_study
from srn_jax.runs.group import run_sweep
from srn_jax.runs.restore import restore
from srn_jax.runs.settings import variants_of
from srn_jax.tasks import task_of
from srn_jax.training.model import new_network, parameters_of

OPTIONS = Namespace(threshold=0.1, lengths=None, gates=None, seed=None)
LOOK = Look(formats=("png",))
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
PARITY = """
import jax
import jax.numpy as jnp
from srn_jax import Examples, Task, Tokens, place_of

class Parity(Task):
    inputs, outputs = Tokens(2), 2

    def draw(self, key, number, length, width):  # what is drawn depends on the width
        bits = jax.random.bernoulli(key, shape=(number, width)).astype(jnp.int8)
        bits = jnp.where(place_of(length, width) < 0, 0, bits)
        return Examples(bits, jnp.sum(bits, axis=1) % 2)
"""


def with_options(**changes):
    return Namespace(**{**vars(OPTIONS), **changes})


@pytest.fixture(scope="module")
def networks(uninterrupted):
    return {which: restore(uninterrupted, which=which).parameters for which in ("best", "last")}


@pytest.fixture(scope="module")
def told():
    """How far the examination has said that it is."""
    return []


@pytest.fixture(scope="module")
def found(networks, told):
    return examine(SWEEP, networks, np.zeros(4, bool), 0.1, None, lambda *done: told.append(done))


def test_the_accuracies_are_those_of_the_results_wherever_they_stand(uninterrupted, found):
    results = read_results(uninterrupted)
    assert found.accuracy[1].tolist() == results.test_accuracy.tolist()
    own = found.unseen[np.arange(4), [0, 0, 1, 1]]
    assert own.tolist() == results.test_accuracy.tolist()


@pytest.mark.slow
def test_a_diverged_experiment_is_left_out_and_counted(networks, found):
    fewer = examine(SWEEP, networks, np.array([False, True, False, False]), 0.1)
    assert (fewer.left_out, fewer.seed.tolist()) == (1, [0, 0, 1])
    for name in ("readout", "gradient", "product"):
        kept = getattr(found, name)[:, [0, 2, 3]]
        assert np.array_equal(getattr(fewer, name), kept, equal_nan=True)
    with pytest.raises(UserError, match="every experiment diverged"):
        examine(SWEEP, networks, np.ones(4, bool), 0.1)
    with pytest.raises(UserError, match="the run has no length 4, it has 3, 5"):
        examine(SWEEP, networks, np.zeros(4, bool), 0.1, [4])


@pytest.mark.slow
def test_networks_of_one_length_are_examined_as_they_are_among_others(networks, found):
    short = examine(SWEEP, networks, np.zeros(4, bool), 0.1, [3])
    assert (short.length.tolist(), short.tested.tolist(), short.left_out) == ([3, 3], [3], 0)
    assert np.array_equal(short.accuracy, found.accuracy[:, :2])
    assert np.array_equal(short.unseen, found.unseen[:2, :1])
    assert np.array_equal(short.readout, found.readout[:, :2, :, :3])


@pytest.mark.slow
def test_progress_reaches_the_end(found, told):
    assert told[-1] == (4 * 4, 4 * 4) and told == sorted(told)  # 3 stages, and all lengths at once


@pytest.mark.slow
def test_the_script_explains_variants_one_by_one_and_side_by_side(
    uninterrupted, tmp_path, run_here
):
    study = tmp_path / "study"
    configs = [with_settings(learning_rate=rate) for rate in (1e-3, 2e-3, 1e30)]
    write_study(study, configs)
    *names, exploding = variants_of(configs)
    assert names == ["learning_rate=0.001", "learning_rate=0.002"]
    for name in names:
        shutil.copytree(uninterrupted, study / name)
    run_sweep(configs[-1], study / exploding, Recorder())
    done = run_here("explain.py", study, "--platform", "cpu")
    left_out = f"warning: {study / exploding} is left out: every experiment diverged"
    assert done.returncode == 0 and done.stderr.startswith(left_out)
    assert done.stderr.count("\n") == 1
    out = study / "explanation"
    assert str(out / names[1] / "explanation.md") in done.stdout
    for name in names:
        rows = list(csv.DictReader((out / name / "networks.csv").read_text().splitlines()))
        assert len(rows) == 3 * 4 and {row["length"] for row in rows} == {"3", "5"}
    rows = list(csv.DictReader((out / "differences.csv").read_text().splitlines()))
    assert {(row["run"], row["less"], float(row["mean"])) for row in rows} == {(*names[::-1], 0.0)}
    assert (out / "why.png").exists()
    one = run_here("evaluate.py", study, "--platform", "cpu")
    says = f"error: {study} holds several runs, choose one: {study / names[0]}, "
    assert one.returncode == 2 and one.stderr.startswith(says)


def test_what_cannot_be_explained_costs_one_line(uninterrupted, stopped_once, tmp_path):
    empty = tmp_path / "without"
    shutil.copytree(uninterrupted, empty, ignore=shutil.ignore_patterns("checkpoints"))
    for run, options, words in (
        (empty, OPTIONS, "no checkpoint in it"),
        (uninterrupted, with_options(gates="1 2 0"), "SRN has no gates"),
        (
            uninterrupted,
            with_options(gates="1 2 0 0"),
            "--gates has 4 tokens: the run has no length 4",
        ),
        (uninterrupted, with_options(gates="1 2 0", seed=7), "the run has no seed 7"),
        (uninterrupted, with_options(gates="1 2 x"), "--gates wants numbers 0 to 9"),
    ):
        with pytest.raises(UserError, match=words) as error:
            explain(run, tmp_path / "out", options)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=f"is not finished, .* --resume {stopped_once} goes on"):
        explain_all(stopped_once, with_options(out=tmp_path / "out"), LOOK)
    assert not (tmp_path / "out").exists()
    status, _, complaints = Script(tmp_path, "explain.py", empty, "--platform", "cpu").wait()
    assert status == 2 and len(complaints) == 1


def test_a_folder_that_cannot_be_made_is_the_users_mistake(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(explaining, "examine", lambda *_: None)
    with pytest.raises(UserError, match="no possible folder"):
        explain(uninterrupted, tmp_path / ("long" * 100), OPTIONS)


@pytest.mark.slow
def test_of_variants_with_several_answers_those_with_gates_show_them(uninterrupted, tmp_path):
    study, plain, out = (tmp_path / name for name in ("study", "plain", "out"))
    settings = [SMALL | {"task": "recall", "cell": cell, "epochs": 1} for cell in ("srn", "lstm")]
    configs = [SweepConfig((6,), (0,), ExperimentConfig(**its)) for its in settings]
    write_study(study, configs)
    names = [*variants_of(configs)]
    for name, config in variants_of(configs).items():
        run_sweep(config, study / name, Recorder())
    options = with_options(gates="1 2 8 9 9 9", lengths=[6], out=out)
    others = [with_settings(), with_settings(learning_rate=2e-3)]
    write_study(plain, others)
    with pytest.raises(UserError, match=r"learning_rate=0.001 has not begun: --resume .*/plain"):
        explain_all(plain, options, LOOK)
    for name in variants_of(others):
        shutil.copytree(uninterrupted, plain / name)
    with pytest.raises(UserError, match=r"no cell in .* has gates to show, leave out --gates"):
        explain_all(plain, options, LOOK)
    explain_all(study, options, LOOK)
    assert [path.parent.name for path in out.rglob("gate_F.png")] == names[1:]
    assert not [*(out / names[0]).glob("gate_*")] and (out / "why.png").exists()
    for name in names:
        assert "Readout of symbol 3" in (out / name / "explanation.md").read_text()


@pytest.mark.slow
def test_networks_are_examined_with_the_data_that_they_were_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PARITY)
    settings = ExperimentConfig(**SMALL | {"task": "own.py:Parity", "epochs": 3})
    config, run = SweepConfig((3, 5), (0, 1), settings), tmp_path / "run"
    results = run_sweep(config, run, Recorder()).results
    best = restore(run).parameters
    found = examine(config, {"best": best, "last": best}, np.zeros(4, bool), 0.5)
    assert found.accuracy[1].tolist() == results.test_accuracy.tolist()
    assert len(set(results.test_accuracy)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"task": "adding", "cell": "gru"}, {"cell": "own.py:Mean"}])
def test_other_tasks_and_cells_are_examined_too(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    config = SweepConfig((4,), (0, 1), ExperimentConfig(**SMALL | own))
    networks = [
        parameters_of(new_network(task_of(config), config.experiment, jax.random.key(seed)))
        for seed in config.seeds
    ]
    parameters = jax.tree.map(lambda *arrays: np.stack(arrays), *networks)
    found = examine(config, {"best": parameters, "last": parameters}, np.zeros(2, bool), 0.1)
    assert np.isnan(found.gradient).all() == ("task" not in own)
    assert not np.isnan(found.readout).any()
