"""The folder of a run: the right one or none, what it holds checked, a user's files kept."""

import json
import os
import random
import shutil
import tracemalloc
from argparse import Namespace

import numpy as np
import pytest
from running import (
    BLOCKS,
    SWEEP,
    Recorder,
    checkpoints_of,
    contents_of,
    stop_at,
    with_settings,
)

from srn_jax.analysis.results import read_histories, read_results
from srn_jax.cli import devices, study
from srn_jax.cli.answers import print_predictions
from srn_jax.cli.explain import explain
from srn_jax.cli.publish import load_run
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop import pytorch
from srn_jax.interop.textbook_files import read_data, textbook_splits, write_splits
from srn_jax.runs import folder as run_folder
from srn_jax.runs import restore
from srn_jax.runs.group import Member, run_sweep
from srn_jax.runs.loop import RunOptions
from srn_jax.runs.outcome import without_best
from srn_jax.runs.settings import config_of, default_folder, differences, settings_of, variants_of
from srn_jax.runs.signals import Interrupted

# The wrong run


def test_other_settings_are_refused_and_named(stopped):
    before = contents_of(stopped)
    other = with_settings(learning_rate=0.1, hidden_size=4)
    with pytest.raises(UserError) as caught:
        run_sweep(other, stopped, Recorder())
    assert "hidden_size: 8, now 4; learning_rate: 0.001, now 0.1" in str(caught.value)
    with pytest.raises(UserError, match=r"seeds: \[0, 1\], now \[0, 2\]"):
        run_sweep(SweepConfig((3, 5), (0, 2), SWEEP.experiment), stopped, Recorder())
    assert contents_of(stopped) == before


def test_checkpoints_of_other_settings_are_refused_and_the_settings_named(stopped, tmp_path):
    with pytest.raises(Interrupted):
        run_sweep(with_settings(learning_rate=0.1), tmp_path / "other", stop_at(11))
    (tmp_path / "other" / "checkpoints" / "11").rename(stopped / "checkpoints" / "11")
    for attempt in (lambda: run_sweep(SWEEP, stopped, Recorder()), lambda: load_run(stopped)):
        with pytest.raises(UserError, match=r"learning_rate: 0\.1, now 0\.001"):
            attempt()


def test_only_overwrite_loses_a_run(stopped):
    other = with_settings(learning_rate=0.1)
    run_sweep(other, stopped, Recorder(), RunOptions(overwrite=True))
    assert checkpoints_of(stopped) == [BLOCKS]
    assert config_of(run_folder.read_run(stopped)["settings"]) == other


@pytest.mark.parametrize("name", ["thesis.tex", "results.csv"])
def test_a_folder_with_anything_else_in_it_is_refused(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match=f"not empty and not the folder of a run .it has {name}"):
        run_sweep(SWEEP, tmp_path, Recorder())
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not the folder of a run"):
        run_sweep(SWEEP, tmp_path, Recorder(), RunOptions(overwrite=True))
    assert (tmp_path / name).read_text() == "years of work"


def test_a_run_killed_while_it_wrote_its_first_file_can_be_started_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("lock", "run.json.partial"):
        (folder / name).touch()
    assert not run_folder.check_folder(folder, settings_of(SWEEP))
    (folder / "run.json.partial").rename(folder / "study.json.partial")
    run_folder.check_folders(folder, [SWEEP, with_settings(epochs=9)], overwrite=False)


def test_other_variants_are_refused(tmp_path):
    run_folder.write_study(tmp_path, [with_settings(epochs=1), with_settings(epochs=2)])
    run_folder.check_folders(tmp_path, run_folder.read_configs(tmp_path), overwrite=False)
    others = [with_settings(epochs=1), with_settings(epochs=3)]
    with pytest.raises(UserError, match=r"holds other variants \(epochs=1, epochs=2\)"):
        run_folder.check_folders(tmp_path, others, overwrite=False)


def test_a_path_that_cannot_be_a_folder_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    for path in ("loop", "loop/run", "new/x/../../..", "new/../new/run", "a" * 300):
        with pytest.raises(UserError):
            run_sweep(SWEEP, tmp_path / path, Recorder())
    assert os.listdir() == ["loop"]


def test_what_generate_data_would_write_is_said_first_and_refused_where_there_is_no_room(
    run_here, tmp_path
):
    huge = ("--lengths", 100_000, "--multiplicities", 10_000, 10_000, 10_000)
    done = run_here("generate_data.py", "--out", tmp_path / "data", *huge)
    assert done.returncode == 2 and "MB are free there" in done.stderr and not done.stdout
    assert not (tmp_path / "data").exists()
    done = run_here("generate_data.py", "--out", tmp_path / "data", "--lengths", 3)
    size = sum(path.stat().st_size for path in (tmp_path / "data").rglob("*.txt"))
    first, *rest = done.stdout.splitlines()
    assert first == f"500 examples, 0.0 MB, to {tmp_path / 'data'}" and size < 50_000
    assert len(rest) == 1 and "300 train, 100 dev, 100 test" in rest[0]


def test_lines_of_libtpu_are_kept_back_and_no_others(capfd):
    with devices.without_libtpu():
        os.write(2, b"I0000 common_lib.cc:649] Failed to find host bounds\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"


# Settings


def test_settings_survive_and_are_compared_with_defaults_filled_in():
    config = with_settings(clip_norm=1.0, cell="lstm")
    settings = settings_of(config)
    assert config_of(json.loads(json.dumps(settings))) == config
    shorter = {**settings, "experiment": {**settings["experiment"]}}
    for name in ("task", "steps", "fresh_data"):  # as a version would write that has them not
        del shorter["experiment"][name]
    del shorter["probes"]
    assert differences(shorter, settings) == []
    assert differences(shorter, settings_of(with_settings(clip_norm=1.0))) == [
        "cell: lstm, now srn"
    ]


def test_the_default_folder_does_not_depend_on_where_files_are(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "mine.py", tmp_path / "there" / "mine.py"):
        path.write_text("class Mine: pass")
    one, two = (with_settings(cell=f"{tmp_path}/{at}mine.py:Mine") for at in ("", "there/"))
    assert default_folder([one]) == default_folder([two]) != default_folder([SWEEP])
    assert [*variants_of([SWEEP, one])] == ["cell=srn", "cell=mine.Mine"]
    with pytest.raises(UserError, match="same name"):
        variants_of([one, two])
    assert "-forget1-" in default_folder([with_settings(forget_bias=1.0, cell="lstm")]).name
    assert "-fresh-" in default_folder([with_settings(fresh_data=True)]).name


# What a run wrote


def test_every_flipped_bit_in_what_a_run_wrote_is_found(uninterrupted, tmp_path):
    files = {name: (uninterrupted / name).read_bytes() for name in ("results.csv", "run.json")}
    files["histories.npz"] = (uninterrupted / "histories.npz").read_bytes()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    draw, right = random.Random(2), load_run(tmp_path)
    for number in range(60):
        name = [*files][number % 3]
        content = bytearray(files[name])
        position = draw.randrange(len(content))
        content[position] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(content)
        try:
            found = load_run(tmp_path)
        except UserError as error:
            assert str(tmp_path / name) in str(error) and len(str(error).splitlines()) == 1
        else:  # white space that means nothing
            assert name == "run.json" and found.info == right.info
        (tmp_path / name).write_bytes(files[name])


def test_a_changed_learning_rate_is_not_drawn_as_the_truth(uninterrupted, tmp_path):
    for name in ("results.csv", "run.json", "histories.npz"):
        (tmp_path / name).write_bytes((uninterrupted / name).read_bytes())
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace("0.001", "0.003"))
    for read in (load_run, read_results, read_histories):
        with pytest.raises(UserError, match=r"run\.json: damaged"):
            read(tmp_path)


def test_results_that_were_damaged_come_from_the_checkpoint_again(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "results.csv").write_bytes(b"length\n3\n")
    reporter = Recorder(lambda progress: pytest.fail("it trained"))
    run_sweep(SWEEP, folder, reporter)
    (warning,) = reporter.warned
    assert "results.csv" in warning and "come from its checkpoint again" in warning
    assert (folder / "results.csv").read_bytes() == (uninterrupted / "results.csv").read_bytes()


def test_what_would_take_too_much_memory_is_refused_before_it_does(tmp_path, monkeypatch):
    bomb = np.zeros((1, 10_000_000), np.float32)
    for name in ("histories.npz", "weights.npz"):
        np.savez_compressed(tmp_path / name, train_loss=bomb)
    monkeypatch.setattr(pytorch, "MOST_BYTES", 1_000_000)
    for read in (lambda: read_histories(tmp_path), lambda: pytorch.load(tmp_path / "weights.npz")):
        tracemalloc.start()
        with pytest.raises(UserError, match=r"it is compressed|40,000,\d+ bytes, expected"):
            read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000


@pytest.mark.parametrize("seconds", ["9" * 400, "1e999", '"\\ud800"'])
def test_a_strange_number_in_an_old_run_file_is_one_line(tmp_path, seconds):
    info = {"settings": settings_of(SWEEP), "command": "", "device": "", "versions": {}}
    text = json.dumps(info | {"seconds": "SECONDS", "finished": True})
    (tmp_path / "run.json").write_text(text.replace('"SECONDS"', seconds))
    with pytest.raises(UserError, match="damaged") as caught:
        run_folder.read_run(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()


# Nothing to score


@pytest.mark.slow
def test_without_best_parameters_there_are_no_scores_anywhere(tmp_path, capsys):
    experiment = with_settings(steps=1, learning_rate=1e30, cell="lstm").experiment
    single, folder = SweepConfig((10,), (0,), experiment), tmp_path / "run"  # figure 6.13's length
    run = study.run_and_publish([Member(folder, single)], RunOptions())[folder.name]
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 of 1 experiments diverged")
    results, read = run.results, read_results(folder)
    assert (folder / "report.html").exists() and not [*folder.glob("figures/6.13*")]
    assert results.diverged.all() and np.isnan(results.final_train_loss).all()
    assert (results.best_step == -1).all()
    loss, accuracy = restore.accuracies(restore.restore(folder))
    for values in (results.best_dev_accuracy, results.dev_loss, results.test_loss, loss, accuracy):
        assert np.isnan(values).all()
    assert np.isnan(read.test_accuracy).all()
    never_right = {"best_step": np.array([-1, 5]), "diverged": np.array([False, True])}
    assert without_best(never_right).tolist() == [True, False]


# Data and files of the user's own


@pytest.fixture
def data(tmp_path):
    for length, splits in textbook_splits((3,), (1, 1, 1)):
        write_splits(tmp_path / "data", length, splits)
    return tmp_path / "data"


def test_data_that_change_before_they_are_read_are_refused(tmp_path, data):
    config = SweepConfig((3,), (0,), SWEEP.experiment, read_data(str(data), (3,))[0])
    path = data / "3" / "train.txt"
    path.write_text(path.read_text().replace("9 9 ", "9 8 ").replace("\t18", "\t17"))
    with pytest.raises(UserError, match=r"data has changed since|cannot have been learned"):
        run_sweep(config, tmp_path / "run", Recorder())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_without_a_right_answer_is_shown_nowhere_as_a_trained_one(tmp_path, data, capsys):
    """Its last parameters are trained, and can be had."""
    (data / "3" / "dev.txt").write_text("9 9 0\t18\n")
    experiment = with_settings(steps=20, learning_rate=1e-6).experiment
    config = SweepConfig((3,), (0, 1), experiment, read_data(str(data), (3,))[0])
    run = tmp_path / "run"
    results = run_sweep(config, run, Recorder()).results
    assert results.unscored.all()
    best, last = (restore.restore(run, which=which) for which in ("best", "last"))
    assert not best.trained.any() and last.trained.all()
    assert np.isfinite(restore.accuracies(last)).all()
    print_predictions(best, "1 2 0")
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[2:4]] == [["3", "0", "-", "-"], ["3", "1", "-", "-"]]
    assert shown[-1] == "none of the networks has parameters of this kind (--which)"
    with pytest.raises(UserError, match="length 3, seed 0 has no best parameters"):
        restore.restore_network(run, 3, 0)
    restore.restore_network(run, 3, 0, which="last")
    with pytest.raises(UserError, match="never gave a right answer"):
        explain(run, tmp_path / "out", Namespace(threshold=0.1, lengths=None, gates=None))


CELL = """
from srn_jax import Cell
import jax.numpy as jnp

class Mine(Cell):
    gates = 1

    def update(self, x, h, state):
        return jnp.tanh(x[..., 0, :] + h[..., 0, :])
"""


@pytest.mark.slow
def test_a_run_keeps_a_file_of_the_users_own_and_needs_no_other(tmp_path):
    own, folder = tmp_path / "mine.py", tmp_path / "run"
    own.write_text(CELL)
    config = SweepConfig((3,), (0,), with_settings(cell=f"{own}:Mine", epochs=2).experiment)
    with pytest.raises(Interrupted):
        run_sweep(config, folder, stop_at(2))
    own.write_text(CELL.replace("tanh", "sin"))
    before = contents_of(folder)
    with pytest.raises(UserError, match=r"mine\.py: [0-9a-f]{12}, now [0-9a-f]{12}"):
        run_sweep(config, folder, Recorder())
    assert contents_of(folder) == before
    own.unlink()
    (again,) = run_folder.read_configs(folder)
    assert again.experiment.cell == f"{folder / 'code' / 'mine.py'}:Mine"
    run_sweep(again, folder, Recorder())
    (folder / "code" / "mine.py").write_text(CELL.replace("tanh", "sin"))
    for read in (run_folder.read_configs, restore.restore):
        with pytest.raises(UserError, match=r"code/mine\.py has changed since the run began"):
            read(folder)
