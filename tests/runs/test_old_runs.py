"""Folders of the version that knew one cell and one task: restored, evaluated, drawn, resumed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import Recorder, contents_of

from srn_jax.analysis.results import read_results
from srn_jax.cli import study
from srn_jax.cli.publish import load_run
from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder
from srn_jax.runs import restore
from srn_jax.runs.group import run_sweep
from srn_jax.runs.settings import settings_of

DATA = Path(__file__).parents[1] / "data"
VARIANTS = "old_version/run_of_variants"
FINISHED = ["old_version/run_of_own_data", f"{VARIANTS}/learning_rate=0.01", "run_of_jax_0.7.2"]


@pytest.fixture
def old(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # own_data was given by a relative path
    shutil.copytree(DATA / "old_version", tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("name", FINISHED)
def test_an_old_checkpoint_gives_the_scores_of_its_results(old, name):
    results = read_results(DATA / name)
    networks = restore.restore(DATA / name)
    loss, accuracy = restore.accuracies(networks)
    assert networks.experiments == (*zip(results.length, results.seed, strict=True),)
    assert accuracy.tolist() == results.test_accuracy.tolist()
    assert loss == pytest.approx(results.test_loss, abs=1e-5)


@pytest.mark.slow
def test_an_unfinished_old_run_ends_as_the_old_program_ended_it(old, run_script):
    """As users run it: without LLVM's optimisations, which tests leave out, rounding is another."""
    folder = old / "run_unfinished"
    before = load_run(folder)
    assert np.isfinite(before.histories.train_loss[:, 12_700]).all()
    done = run_script("sweep.py", "--resume", folder, cwd=old, XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    assert "resumed after 12,701 of 24,000 steps\n" in done.stdout
    ended, expected = read_results(folder), old / "run_unfinished_then_finished.csv"
    (old / "expected").mkdir()
    shutil.copy(expected, old / "expected" / "results.csv")
    for name, values in vars(read_results(old / "expected")).items():
        if name != "best_step":  # rounding differs between versions of XLA, and moves it
            apart = 0.15 if name.endswith("_loss") else 0.05
            assert getattr(ended, name) == pytest.approx(values, abs=apart), name


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_old_run_is_recognised_and_left_as_it_was(old, name):
    folder = shutil.copytree(DATA / name, old / "copy")
    before = contents_of(folder)
    (config,) = run_folder.read_configs(folder)
    run = run_sweep(config, folder, Recorder(lambda progress: pytest.fail("it trained")))
    assert len(run.results) == 4 and contents_of(folder) == before


def test_a_finished_run_without_its_checkpoints_is_reported_though_not_its_gates(
    old, run_here, monkeypatch
):
    monkeypatch.setattr(study, "has_gates", lambda _: True)
    monkeypatch.setattr(study, "GATES_SEQUENCE", (6, 7, 0))
    folder = old / "run"
    shutil.copytree(DATA / "run_of_jax_0.7.2", folder, ignore=lambda *_: ["checkpoints"])
    done = run_here("sweep.py", "--resume", folder)
    assert done.returncode == 0, done.stderr
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("warning: "))
    assert "the gates could not be drawn" in told and "no checkpoint in it" in told
    assert (folder / "report.md").exists()


def test_old_variants_are_found(old):
    configs = run_folder.read_configs(old / "run_of_variants")
    assert [config.experiment.learning_rate for config in configs] == [0.01, 0.1]
    assert all(
        load_run(run).results.length.size for run in run_folder.runs_in(old / "run_of_variants")
    )


def test_old_data_are_checked_by_their_digest(old):
    (config,) = run_folder.read_configs(old / "run_of_own_data")
    assert config.data.classes == 19
    assert run_folder.check_folder(old / "run_of_own_data", settings_of(config))
    path = old / "own_data" / "3" / "test.txt"
    path.write_text(path.read_text().replace("0 0", "0 1", 1))
    with pytest.raises(UserError, match="own_data has changed since the run"):
        restore.accuracies(restore.restore(old / "run_of_own_data"))


def test_the_old_runs_in_the_repository_are_small():
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(os.path.getsize(path) for path in files) < 1_500_000
