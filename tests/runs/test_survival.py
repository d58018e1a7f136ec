"""Preempted, killed, out of disk: nothing is lost, and every failure costs one clear line."""

import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from running import (
    BLOCKS,
    COMMAND,
    SAVE_ALWAYS,
    SWEEP,
    Recorder,
    Script,
    assert_same_bytes,
    assert_same_run,
    checkpoints_of,
    contents_of,
    slowly,
    stop_at,
    wait_until,
)

from srn_jax.cli import options, publish, study
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.runs import checkpoint, group, loop, storage
from srn_jax.runs import folder as run_folder
from srn_jax.runs.group import Member, run_sweep
from srn_jax.runs.loop import RunOptions
from srn_jax.runs.signals import Interrupted

UNFINISHED = r"/[0-9]+\.orbax-checkpoint-tmp[^/]*"  # or being removed

# Kills


def killed_in(name, when=lambda path: True):
    """Kill this process where the function `name` of `os` or `shutil` begins, if `when` says so."""
    loop.INTERVAL_SECONDS = 0
    module, _, function = name.rpartition(".")
    module = {"os": os, "shutil": shutil}[module]
    real, saving = getattr(module, function), checkpoint.Writer.saving

    def kill(path, *rest, **options):
        if when(str(path)):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *rest, **options)

    def saved(writer):  # so that there is a checkpoint of every block
        writer.close()
        return saving(writer)

    setattr(module, function, kill)
    checkpoint.Writer.saving = saved


def count_to(number, ending):
    """A condition that is true for the number-th path that ends like this."""
    seen = []

    def when(path):
        if re.search(f"{ending}$", path):
            seen.append(path)
        return len(seen) == number

    return when


def while_saving():  # the arrays are written, the folder has not its name yet
    killed_in("os.rename", count_to(2, UNFINISHED))


def while_deleting():
    killed_in("shutil.rmtree", count_to(2, UNFINISHED))


def while_naming_what_is_deleted():
    real = Path.rename

    def rename(path, target):
        result = real(path, target)
        if path.name.isdigit():
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    killed_in("os.rename", lambda path: False)
    Path.rename = rename


def while_writing_results():
    killed_in("os.replace", count_to(1, "results.csv.partial"))


def between_results_and_histories():
    killed_in("os.replace", count_to(1, "histories.npz.partial"))


def before_it_is_called_finished():
    finished = b'"finished": true'
    killed_in("os.replace", lambda path: finished in Path(path).read_bytes())


KILLS = (while_saving, while_deleting, while_naming_what_is_deleted, while_writing_results)
KILLS += (between_results_and_histories, before_it_is_called_finished)


@pytest.mark.slow
def test_a_run_killed_at_every_boundary_ends_as_one_never_interrupted(tmp_path, uninterrupted):
    folder, blocks = tmp_path / "run", [0]
    for kill in KILLS:
        script = Script(tmp_path, "sweep.py", *COMMAND, "--out", folder, prepare=kill)
        assert script.wait()[0] == -signal.SIGKILL, (kill.__name__, script.wait())
        assert not run_folder.read_run(folder)["finished"]
        blocks.append(checkpoint.restore(folder, warn=pytest.fail).block)
    assert 0 < blocks[1] < blocks[2] < blocks[3] < BLOCKS == blocks[4], blocks
    reporter = Recorder(lambda progress: pytest.fail("it trained again"))
    run_sweep(SWEEP, folder, reporter)
    assert not reporter.warned
    names = os.listdir(folder / "checkpoints")
    assert len(names) <= checkpoint.KEEP and all(name.isdigit() for name in names)
    assert_same_run(folder, uninterrupted)


def test_a_run_stopped_again_and_again_ends_as_one_never_interrupted(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    for block in (1, 8, 15):
        with pytest.raises(Interrupted):
            run_sweep(SWEEP, folder, stop_at(block))
        assert checkpoints_of(folder)[-1] == block
    reporter = Recorder()
    run_sweep(SWEEP, folder, reporter)
    assert "resumed after 301 of 304 steps" in reporter.said
    assert_same_run(folder, uninterrupted)


def test_a_finished_run_is_not_trained_again(tmp_path, uninterrupted):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    reporter = Recorder(lambda progress: pytest.fail("it trained"))
    run_sweep(SWEEP, folder, reporter)
    assert reporter.said[1] == f"{folder} is finished, nothing is left to train"
    assert_same_run(folder, uninterrupted)


def test_what_a_killed_save_left_is_removed(stopped, uninterrupted):
    for name in ("11.orbax-checkpoint-tmp", "12.orbax-checkpoint-tmp-1763"):
        (stopped / "checkpoints" / name / "models").mkdir(parents=True)
    run_sweep(SWEEP, stopped, Recorder())
    assert not [path for path in stopped.rglob("*") if "tmp" in path.name]
    assert_same_run(stopped, uninterrupted)


# Signals


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "a run"
    script = Script(tmp_path, "sweep.py", *COMMAND, "--out", folder, prepare=slowly)
    wait_until(lambda: checkpoints_of(folder), script)
    os.kill(script.pid, signal.SIGINT)  # for SIGTERM see test_distributed.py
    ended, output, errors = script.wait()
    assert (ended, errors) == (130, [])
    to_go_on = f"stopped; to go on: python scripts/sweep.py --resume '{folder}' --platform cpu"
    assert output.splitlines()[-1] == to_go_on
    assert checkpoint.restore(folder).block == checkpoints_of(folder)[-1] < BLOCKS
    assert not run_folder.read_run(folder)["finished"]


def hang_while_saving():
    def close(writer):
        if writer._thread is None:
            return
        Path("hangs").touch()
        while True:
            time.sleep(0.1)

    slowly()
    checkpoint.Writer.close = close


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_even_if_the_disk_hangs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [*COMMAND, "--out", tmp_path / "run"]
    script = Script(tmp_path, "sweep.py", *command, prepare=hang_while_saving)
    wait_until(lambda: "step" in script.out.read_text(), script)
    os.kill(script.pid, signal.SIGINT)
    wait_until(Path("hangs").exists, script)
    os.kill(script.pid, signal.SIGINT)
    status, output, errors = script.wait()
    assert (status, errors) == (130, [])
    assert "to go on" not in output


def test_a_signal_that_comes_too_late_for_one_run_stops_before_the_next(tmp_path):
    with pytest.raises(Interrupted) as caught:
        run_sweep(SWEEP, tmp_path / "run", stop_at(BLOCKS))
    assert caught.value.signal == signal.SIGTERM
    assert run_folder.read_run(tmp_path / "run")["finished"]


def hold(folder):
    with run_folder.locked(folder):
        (folder / "held").touch()
        time.sleep(300)


def test_a_run_folder_belongs_to_one_process_and_the_lock_dies_with_it(stopped):
    owner = multiprocessing.get_context("forkserver").Process(target=hold, args=[stopped])
    owner.start()
    wait_until((stopped / "held").exists, owner)
    (stopped / "held").unlink()
    before = contents_of(stopped)
    for how in (RunOptions(), RunOptions(overwrite=True)):
        with pytest.raises(UserError, match="in use by another process"):
            run_sweep(SWEEP, stopped, Recorder(), how)
    assert contents_of(stopped) == before
    owner.kill()
    owner.join()
    with run_folder.locked(stopped):
        pass


# A failing experiment


def test_a_failing_experiment_is_reported_and_leaves_the_others_alone(
    tmp_path, monkeypatch, capsys, uninterrupted
):
    class OneBroken(Sweep):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            state = self.gather(self.state)
            state.parameters["cell"]["U"][2] = np.nan
            self.state = self.scatter(state)

    monkeypatch.setattr(group, "Sweep", OneBroken)
    study.run_and_publish([Member(tmp_path / "run", SWEEP)], RunOptions())
    rows, whole = (
        (f / "results.csv").read_text().splitlines() for f in (tmp_path / "run", uninterrupted)
    )
    assert [row for i, row in enumerate(rows) if i != 3] == [
        r for i, r in enumerate(whole) if i != 3
    ]
    assert rows[3].startswith("5,0,nan,-1,nan,nan,nan,nan,") and rows[3].endswith(",True")
    output = capsys.readouterr().out
    assert "diverged" in next(line for line in output.splitlines() if "best dev" in line)
    last = output.splitlines()[-1]
    assert last == f"1 of 4 experiments diverged, see {tmp_path / 'run' / 'results.csv'}"
    checkpoints = [checkpoint.restore(folder) for folder in (tmp_path / "run", uninterrupted)]
    others = [jax.tree.map(lambda array: array[[0, 1, 3]], c.items) for c in checkpoints]
    assert_same_bytes(*others)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE\nin a stream", 1),
        ("UNAVAILABLE: TPU worker has been lost", 1),
        ("INVALID_ARGUMENT: shapes differ", None),  # ours
        ("INTERNAL: CpuCallback error: Traceback (most recent call last):", None),
    ],
)
def test_a_device_that_fails_costs_one_line_and_a_mistake_of_ours_its_traceback(
    text, lines, capsys
):
    def main(_):
        raise jax.errors.JaxRuntimeError(text)

    with pytest.raises(SystemExit) as end:
        options.run_script(main)
    shown = capsys.readouterr().err
    assert end.value.code == 1 and shown.startswith("Traceback" if lines is None else "error: ")
    assert lines is None or (shown.count("\n"), "goes on" in shown) == (lines, True)


# The disk


def small_files_only():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def few_handles():
    import resource

    real = storage.save

    def save(*arguments):
        used = {int(name) for name in os.listdir("/proc/self/fd")}
        seventh = [number for number in range(1024) if number not in used][6]
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (seventh, most))
        real(*arguments)

    storage.save = save


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")
@pytest.mark.parametrize(
    ("problem", "reason"),
    [(small_files_only, "File too large"), (few_handles, "Too many open files")],
)
def test_a_save_that_fails_ends_the_process_with_one_line_and_loses_no_checkpoint(
    stopped, uninterrupted, tmp_path, problem, reason
):
    command = ["--resume", stopped, "--platform", "cpu", "--cpu-devices", 2]
    began = time.monotonic()
    script = Script(tmp_path, "sweep.py", *command, prepare=problem)
    status, _, errors = script.wait()
    assert status == 1 and time.monotonic() - began < 60
    (line,) = errors
    folder = stopped / "checkpoints"
    assert line.startswith(f"error: no checkpoint could be written to {folder}: {reason}; ")
    assert checkpoint.restore(stopped).block == 9
    run_sweep(SWEEP, stopped, Recorder())
    assert_same_run(stopped, uninterrupted)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_results_that_cannot_be_written_are_written_the_next_time(stopped, uninterrupted):
    (stopped / "results.csv.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run_sweep(SWEEP, stopped, Recorder())
    (stopped / "results.csv.partial").unlink()
    run_sweep(SWEEP, stopped, Recorder(lambda progress: pytest.fail("it trained again")))
    assert_same_run(stopped, uninterrupted)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")
def test_a_folder_that_cannot_be_made_costs_one_line(run_here):
    done = run_here("sweep.py", *COMMAND, "--out", "/proc/self/run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/proc/self/run" in done.stderr


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_goes_away_stops_the_run_and_keeps_its_checkpoints(
    stopped, tmp_path, replaced
):
    moved = tmp_path / "moved"

    def look(progress):
        if progress.block == 12:
            stopped.rename(moved)
            if replaced:
                shutil.copytree(moved, stopped, dirs_exist_ok=True)

    with pytest.raises(OSError, match="was removed or replaced while its run was going on") as end:
        run_sweep(SWEEP, stopped, Recorder(look), SAVE_ALWAYS)
    assert not isinstance(end.value, UserError)
    assert checkpoint.restore(moved).block >= 9


def test_figures_that_cannot_be_drawn_cost_no_results(stopped, uninterrupted, capsys):
    (stopped / "figures").write_text("in the way")
    study.run_and_publish([Member(stopped, SWEEP)], RunOptions())
    assert_same_run(stopped, uninterrupted)
    assert (stopped / "report.md").exists() and (stopped / "log.txt").exists()
    output = capsys.readouterr().out
    assert "warning: the figures could not be drawn (FileExistsError" in output
    beside = stopped.parent / "beside"
    beside.mkdir()
    (beside / "figures").write_text("in the way")
    publish.publish_comparison(beside, {"one": publish.load_run(stopped)})
    assert (beside / "comparison.md").exists()
    assert "warning: the comparison could not be drawn" in capsys.readouterr().out
