"""The benchmark measures what it says: the same experiment, run in other ways."""

import json
import runpy
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from benchmark import report
from benchmark.baselines import jax_experiment
from benchmark.measure import STEPS, Job

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.training.program import program_of


def losses_of(contender, config, steps=38):
    train, state, data = jax_experiment(config, contender, steps=steps)
    with jax.numpy_rank_promotion("allow"):  # as a user would write it
        _, losses = jax.jit(train)(state, data)
    return np.asarray(losses)


@pytest.mark.slow
def test_the_plain_scan_trains_the_same_experiments():
    config = SweepConfig((3, 7), (0, 1), ExperimentConfig(epochs=1), every_loss=True)
    sweep = Sweep([config])
    sweep.prepare()
    sweep.advance(0, len(sweep.eval_steps))
    ours = sweep.gather_histories()["train_loss"]
    assert ours.shape == (4, 38) and program_of(SweepConfig()).steps == STEPS
    assert losses_of("plain-scan", config) == pytest.approx(ours, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["srn", "lstm", "gru"])
def test_flax_trains_the_same_experiments_from_weights_of_its_own(cell):
    config = SweepConfig((3, 7), (0, 1), ExperimentConfig(epochs=1, cell=cell))
    losses = losses_of("flax-rnn", config, steps=114)
    assert losses.shape == (4, 114)
    assert losses[:, 0] == pytest.approx(np.log(19), abs=0.6)  # nothing is known yet
    assert losses[:, -38:].mean() < losses[:, :38].mean()  # the third epoch, the first


def test_the_table_gives_ratios_to_the_baselines():
    one = {"seeds": 1, "compile_seconds": 0.0, "peak_bytes": 0}
    slow = one | {"contender": "pytorch-loop", "step_seconds": 0.5}
    fast = one | {"contender": "srn_jax", "step_seconds": 0.005}
    header, _, ours, _ = report.contenders_table([slow, fast]).splitlines()
    assert header.endswith("x pytorch-loop") and ours.endswith("100.0")
    assert ours.split()[:4] == ["srn_jax", "1", "5,000", "95.00"]


def test_a_whole_process_is_shown_by_the_phases_that_its_runs_have_recorded(monkeypatch):
    """Medians of three turns, empty caches and full ones, and each turn the bare imports."""
    began, caches = [], []

    def run(command, env, **_):
        began.append(command)
        caches.append(env["XDG_CACHE_HOME"])
        if "--out" in command:
            folder = report.Path(command[-1])
            folder.mkdir()
            phases = {"training": float(len(began)), "imports": 1.0}
            (folder / "run.json").write_text(json.dumps({"phases": phases}))
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(report.subprocess, "run", run)
    found = report.whole_process("cpu")
    assert found["cold"]["training"] == 4.0 and found["warm"]["training"] == 6.0
    assert len(set(caches)) == 3  # a cache for each turn, and all of a turn have the same
    lines = report.whole_table(found).splitlines()
    assert lines[1].split() == ["training", "4.00", "6.00"]
    assert lines[-1].strip().startswith("times imports alone")


@pytest.mark.parametrize(
    ("words", "problem"),
    [("--estimate tpu-v4", "invalid choice: 'tpu-v4'"), ("--job {", "invalid loads value: '{'")],
)
def test_a_mistake_is_one_line(words, problem):
    main = runpy.run_path(str(report.SCRIPT))["main"]
    with pytest.raises(UserError) as caught:
        main(words.split())
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_contender_that_fails_is_one_line():
    with pytest.raises(UserError, match=r"^flax-rnn could not be measured: ValueError: no$"):
        report.run(["-c", "raise ValueError('no')"], "flax-rnn")


@pytest.mark.slow
def test_the_contenders_are_measured_from_end_to_end(monkeypatch):
    """Each in a process of its own, at the shortest length."""
    jobs = [Job(one.contender, lengths=(5,), steps=5, repeats=1)
            for one in report.plan("cpu", True, ["srn"])]  # fmt: skip
    found = report.measure_in_turns(jobs, rounds=1)
    assert [one["contender"] for one in found][-3:] == ["flax-rnn", "plain-scan", "srn_jax"]
    assert all(one["step_seconds"] > 0 and one["peak_bytes"] > 1e7 for one in found)
