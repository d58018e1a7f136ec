"""Preempted, killed, out of disk: nothing is lost, and every failure costs one clear line."""

import errno
import os
import re
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from running import (
    BLOCKS,
    SWEEP,
    Process,
    Recorder,
    assert_same_bytes,
    assert_same_run,
    contents_of,
    slowly,
    state_of,
    stop_at,
    train_here,
    wait_until,
)

from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.runs import checkpoint, place
from srn_jax.runs.checkpoint import blocks_in
from srn_jax.runs.folder import read_run
from srn_jax.runs.networks import open_run
from srn_jax.runs.train import SIGNALS, Interrupted, RunOptions, train_run

PART = Path("parts") / "0"
SAVE_ALWAYS = RunOptions(checkpoint_every=1e-9)


def never(progress):
    pytest.fail("it trained again")


# Kills


def killed_in(name, pattern, number=1, after=False):
    """Kill this process where a function of `os` or `shutil` is called with such a path."""
    module, _, function = name.rpartition(".")
    module = {"os": os, "shutil": shutil}[module]
    real, saving, seen = getattr(module, function), checkpoint.Writer.saving, []

    def kill(path, *rest, **options):
        if re.search(pattern, str(path)):
            seen.append(path)
        hit = len(seen) == number and re.search(pattern, str(path))
        if hit and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(path, *rest, **options)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def saved(self):  # so that there is a checkpoint of every block
        self.close()
        return saving(self)

    setattr(module, function, kill)
    checkpoint.Writer.saving = saved


KILLS = {
    "while the first run file is written": ("os.replace", r"run\.json\.partial$"),
    "before the first checkpoint has its name": ("os.rename", r"/[0-9]+\.partial$"),
    "once it has its name": ("os.rename", r"/[0-9]+\.partial$", 2, True),
    "while its files are hashed": ("os.open", r"/[0-9]+\.partial/models", 3),
    "while an old one is removed": ("shutil.rmtree", r"/[0-9]+\.partial$", 4),
    "before the results of the part": ("os.replace", r"0/results\.csv\.partial$"),
    "between results and histories": ("os.replace", r"0/histories\.npz\.partial$"),
    "before the part is called finished": ("os.replace", r"run\.json\.partial$", 2),
    "before the table": ("os.replace", r"run/results\.csv\.partial$"),
    "once the table is written": ("os.replace", r"run/results\.csv\.partial$", 1, True),
}


@pytest.mark.slow
def test_a_run_killed_at_every_boundary_ends_as_one_never_interrupted(tmp_path, uninterrupted):
    folder, blocks = tmp_path / "run", [0]
    for name, kill in KILLS.items():
        process = Process(tmp_path, train_here, folder, prepare=partial(killed_in, *kill))
        assert process.wait()[0] == -signal.SIGKILL, (name, process.wait())
        if name != next(iter(KILLS)):
            assert not read_run(folder)["finished"]
            blocks.append(blocks_in(folder / PART)[0] if blocks_in(folder / PART) else 0)
    assert blocks == sorted(blocks) and 0 < blocks[4] < BLOCKS == blocks[-1], blocks
    reporter = Recorder(never)
    train_run([SWEEP], folder, reporter)
    assert not reporter.warned
    names = os.listdir(folder / PART / "checkpoints")
    assert len(names) <= checkpoint.KEEP and all(name.isdigit() for name in names)
    assert_same_run(folder, uninterrupted)


def test_a_run_goes_on_from_before_a_damaged_checkpoint(stopped, uninterrupted):
    for path in sorted((stopped / PART / "checkpoints" / "9" / "models").rglob("*"))[3:]:
        path.unlink() if path.is_file() else None
    reporter = Recorder()
    train_run([SWEEP], stopped, reporter)
    (warning,) = reporter.warned
    assert "checkpoints/9 is damaged" in warning
    assert "resumed after 101 of 304 steps" in reporter.said
    assert_same_run(stopped, uninterrupted)


# Signals


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_that_asks_to_stop_saves_first_and_ends_with_its_number(
    tmp_path, stopped, name
):
    number = getattr(signal, name)
    process = Process(tmp_path, partial(train_here, stopped, every=1e9), prepare=slowly)
    wait_until(lambda: "resumed" in process.out.read_text(), process)
    time.sleep(0.2)
    os.kill(process.pid, number)
    status, _, errors = process.wait()
    assert (status, errors) == (128 + number, [])
    assert 9 < blocks_in(stopped / PART)[0] < BLOCKS and not read_run(stopped)["finished"]


def test_a_signal_that_comes_too_late_for_a_run_is_not_lost(tmp_path):
    with pytest.raises(Interrupted) as caught:
        train_run([SWEEP], tmp_path / "run", stop_at(BLOCKS))
    assert caught.value.signal == signal.SIGTERM
    assert read_run(tmp_path / "run")["finished"]


# The disk


def test_a_failed_save_ends_the_run_with_the_error_that_matters(stopped, uninterrupted):
    with pytest.MonkeyPatch.context() as patch:
        full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        patch.setattr(ocp.Checkpointer, "save", full)
        with pytest.raises(OSError, match=r"no checkpoint .*: No space left .* are kept"):
            train_run([SWEEP], stopped, Recorder(), SAVE_ALWAYS)
    assert blocks_in(stopped / PART) == [9, 5]
    train_run([SWEEP], stopped, Recorder())
    assert_same_run(stopped, uninterrupted)


@pytest.mark.parametrize("name", ["results.csv", "histories.npz", "run.json"])
def test_what_cannot_be_written_is_written_the_next_time(stopped, uninterrupted, monkeypatch, name):
    real = os.replace

    def replace_or_fail(path, target):
        if Path(target).name == name and blocks_in(stopped / PART)[0] > 10:
            raise OSError(errno.EIO, "Input/output error")
        real(path, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match=f"{name}'$") as caught:
        patch.setattr(os, "replace", replace_or_fail)
        train_run([SWEEP], stopped, Recorder())
    assert caught.value.errno == errno.EIO
    train_run([SWEEP], stopped, Recorder(never))
    assert_same_run(stopped, uninterrupted)


@pytest.mark.parametrize("name", ["results.csv", "parts/0/results.csv", "parts/0/histories.npz"])
def test_what_was_damaged_comes_from_the_checkpoint_again(finished, uninterrupted, name):
    content = bytearray((finished / name).read_bytes())
    content[len(content) // 2] ^= 1
    (finished / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        _ = open_run(finished).record
    reporter = Recorder(never)
    train_run([SWEEP], finished, reporter)
    assert all(f"{name}: damaged" in line for line in reporter.warned)
    assert len(reporter.warned) == name.startswith("parts")
    assert_same_run(finished, uninterrupted)


# A run that goes on, read by others


def test_reading_a_run_that_goes_on_changes_nothing_in_it(tmp_path, monkeypatch):
    folder, save = tmp_path / "run", checkpoint.Writer.save

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self.close()

    def look(progress):
        if progress.block in (4, 8):
            before = contents_of(folder)
            run = open_run(folder)
            assert np.isfinite(run.record.variants[0].histories.dev_loss).sum() >= 4 * 3
            assert run.networks(seeds=[1]).trained.shape == (2,)
            assert contents_of(folder) == before

    monkeypatch.setattr(checkpoint.Writer, "save", save_and_wait)
    train_run([SWEEP], folder, Recorder(look), SAVE_ALWAYS)


# A failing experiment


def test_a_failing_experiment_leaves_the_others_alone(tmp_path, monkeypatch, uninterrupted):
    prepare = Sweep.prepare

    def one_broken(sweep):
        prepare(sweep)
        state = sweep.gather(sweep.state)
        state.parameters["cell"]["U"][2] = np.nan
        sweep.state = sweep.scatter(state)

    monkeypatch.setattr(Sweep, "prepare", one_broken)
    run = train_run([SWEEP], tmp_path / "run", Recorder())
    rows, whole = (
        (f / "results.csv").read_text().splitlines() for f in (tmp_path / "run", uninterrupted)
    )
    others = [0, 1, 2, 4]
    assert [rows[n] for n in others] == [whole[n] for n in others]
    assert rows[3].startswith("5,0,nan,-1,nan,nan,nan,nan,") and rows[3].endswith(",True")
    networks = run.networks()
    assert networks.trained.tolist() == [True, True, False, True]
    assert np.isnan(networks.scores().accuracy).tolist() == [False, False, True, False]
    with pytest.raises(UserError, match="length 5, seed 0 has no best parameters"):
        networks.network(2)
    states = [state_of(folder) for folder in (tmp_path / "run", uninterrupted)]
    assert_same_bytes(*(jax.tree.map(lambda array: array[[0, 1, 3]], one) for one in states))


# Places


def test_a_run_that_goes_on_elsewhere_says_so_and_keeps_both_places(stopped, monkeypatch):
    there = {"processor": "another", "versions": {"jax": "9.9"}, "outside": {"XLA_FLAGS": "--fast"}}
    monkeypatch.setattr(place, "here", lambda: there)
    began, reporter = read_run(stopped), stop_at(12)
    with pytest.raises(Interrupted):
        train_run([SWEEP], stopped, reporter)
    (warning,) = reporter.warned
    for told in ("now 9.9", "now another", ", now --fast"):
        assert told in warning
    run = train_run([SWEEP], stopped, reporter := Recorder())
    assert not reporter.warned and run.info["went_on"] == [there]
    assert run.info["versions"] == began["versions"]
    assert set(run.info["phases"]) >= {"compiling", "training", "checkpoint", "testing"}
    with run.phases("figures"):
        run.phases["figures"] = 1.5
    for _ in range(2):  # so far, and not once more
        run.keep_phases()
    assert read_run(stopped)["phases"]["figures"] >= 1.5
    assert read_run(stopped)["phases"]["training"] == pytest.approx(
        began["phases"]["training"] + run.phases["training"], abs=0.2
    )
