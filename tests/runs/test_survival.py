"""Preempted, killed, misused: nothing is lost, and every mistake costs one clear line."""

import json
import multiprocessing
import os
import pickle
import random
import shlex
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from srn_jax.analysis.results import read_results
from srn_jax.cli import publish, study
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.runs import checkpoint
from srn_jax.runs import folder as run_folder
from srn_jax.runs import loop as run
from srn_jax.runs import restore as evaluation
from srn_jax.runs.loop import RunOptions, run_sweep
from srn_jax.runs.signals import Interrupted

SCRIPTS = Path(__file__).parents[2] / "scripts"
SWEEP = SweepConfig((3, 5), (0, 1), ExperimentConfig(epochs=8, eval_interval=20))
BLOCKS = 16  # 304 steps
LONG_SWEEP = shlex.split(  # as a script; it saves whenever it can
    "--platform cpu --cpu-devices 2 --lengths 3 5 --seeds 2 "
    "--epochs 3000 --eval-interval 20 --checkpoint-every 1e-6"
)
SAVE_ALWAYS = RunOptions(checkpoint_every=1e-9)


class Recorder:
    """A reporter that keeps what it is told and calls `at` after every interval."""

    def __init__(self, at=lambda progress: None):
        self.said, self.warned, self.at = [], [], at

    def say(self, message):
        self.said.append(message)

    def warn(self, message):
        self.warned.append(message)

    def progress(self, progress):
        self.at(progress)


def stop_at(*blocks, number=signal.SIGTERM):
    return Recorder(lambda progress: progress.block in blocks and signal.raise_signal(number))


@pytest.fixture(autouse=True)
def one_block_an_interval(monkeypatch):
    monkeypatch.setattr(run, "INTERVAL_SECONDS", 0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_sweep(SWEEP, folder, Recorder())
    return folder


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that was stopped after 9 of its 16 blocks and has two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "INTERVAL_SECONDS", 0)
        for block in (5, 9):
            with pytest.raises(Interrupted):
                run_sweep(SWEEP, folder, stop_at(block))
    assert checkpoints_of(folder) == [5, 9]
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


def checkpoints_of(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_same_bytes(items, others):
    one, other = jax.tree.leaves(items), jax.tree.leaves(others)
    assert [(a.dtype, a.tobytes()) for a in one] == [(a.dtype, a.tobytes()) for a in other]


def assert_same_run(folder, other):
    for name in ("results.csv", "histories.npz"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert_same_bytes(checkpoint.restore(folder).items, checkpoint.restore(other).items)
    assert run_folder.read_run(folder)["finished"]


# Scripts as processes of their own, which cost no imports: they are forked from a process that
# has imported JAX and done nothing with it.


class Script(multiprocessing.get_context("forkserver").Process):
    """A script, run as by `python scripts/NAME ...`."""

    def __init__(self, folder, name, *arguments, prepare=None):
        self.out, self.err = (folder / f"{name}.{stream}" for stream in ("out", "err"))
        arguments = [str(argument) for argument in arguments]
        for path in (self.out, self.err):
            path.touch()
        settings = (name, arguments, self.out, self.err, prepare)
        super().__init__(target=run_as_script, args=settings, daemon=True)
        self.start()

    def wait(self):
        """Exit status, standard output and the lines of standard error."""
        self.join(300)
        return self.exitcode, self.out.read_text(), self.err.read_text().splitlines()


def run_as_script(name, arguments, out, err, prepare):
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    sys.path.insert(0, str(SCRIPTS))
    sys.argv = [name, *arguments]
    if prepare is not None:
        prepare()
    from srn_jax.cli import options as cli

    cli.run_script(__import__(name.removesuffix(".py")).main)


def wait_until(condition, script):
    while not condition():
        assert script.is_alive(), f"ended too early: {script.wait()}"
        time.sleep(0.001)


@pytest.fixture(scope="module", autouse=True)
def forkserver():
    modules = ["orbax.checkpoint", "srn_jax.cli.study", "srn_jax.analysis.figures"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)


# Resuming


def save_all_the_time():
    run.INTERVAL_SECONDS = 0.02


@pytest.mark.slow
def test_a_run_killed_over_twenty_times_ends_as_one_never_interrupted(tmp_path):
    moments, folder = random.Random(0), tmp_path / "run"
    command, blocks = [*LONG_SWEEP, "--epochs", 1500], 2850
    kills = while_saving = while_deleting = 0

    def names():
        try:
            return os.listdir(folder / "checkpoints")
        except FileNotFoundError:
            return []

    def finished():
        return [int(name) for name in names() if name.isdigit()]

    def newest():
        return max(finished(), default=0)

    def saving():
        return any("tmp" in name for name in names())

    def deleting():
        return len(finished()) > checkpoint.KEEP

    while kills < 20 or not while_saving or not while_deleting:
        assert kills < 60, (while_saving, while_deleting)
        script = Script(tmp_path, "sweep.py", *command, "--out", folder, prepare=save_all_the_time)
        aim = min(newest() + blocks // 40, blocks - 200)
        if kills % 4 == 3:  # at any moment of starting
            end = time.monotonic() + moments.uniform(0, 3)
            wait_until(lambda aim=aim, end=end: time.monotonic() > end or newest() > aim, script)
        else:
            wait_until(lambda aim=aim: newest() > aim, script)
            wait_until((lambda: True, saving, deleting)[kills % 4], script)
            time.sleep(moments.uniform(0, 0.02) if kills % 4 == 0 else moments.uniform(0, 0.001))
        assert script.is_alive(), script.wait()
        script.kill()
        assert script.wait()[0] == -signal.SIGKILL
        kills += 1
        while_saving += saving()
        while_deleting += deleting()

    script = Script(tmp_path, "sweep.py", "--resume", folder, "--platform", "cpu")
    status, output, errors = script.wait()
    assert (status, errors) == (0, [])
    assert "resumed after" in output
    assert not saving() and len(finished()) <= checkpoint.KEEP
    reference = tmp_path / "reference"
    assert Script(tmp_path, "sweep.py", *command, "--out", reference).wait()[0] == 0
    assert_same_run(folder, reference)


def test_a_run_stopped_again_and_again_ends_as_one_never_interrupted(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    for block in (1, 2, 7, 8, 15):
        with pytest.raises(Interrupted):
            run_sweep(SWEEP, folder, stop_at(block))
        assert checkpoints_of(folder)[-1] == block
    reporter = Recorder()
    run_sweep(SWEEP, folder, reporter)
    assert "resumed after 301 of 304 steps" in reporter.said
    assert_same_run(folder, uninterrupted)


def test_saving_after_every_interval_changes_nothing(tmp_path, uninterrupted):
    run_sweep(SWEEP, tmp_path / "run", Recorder(), SAVE_ALWAYS)
    assert_same_run(tmp_path / "run", uninterrupted)
    assert len(checkpoints_of(tmp_path / "run")) == checkpoint.KEEP


def test_a_finished_run_is_not_trained_again(tmp_path, uninterrupted):
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    run_sweep(SWEEP, folder, Recorder(lambda progress: pytest.fail("it trained")))
    assert_same_run(folder, uninterrupted)


def test_a_run_killed_while_it_wrote_its_first_file_can_be_started_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("lock", "run.json.partial"):
        (folder / name).touch()
    assert not run_folder.check_folder(folder, run_folder.settings_of(SWEEP))
    variants = [SWEEP, SweepConfig((3, 5), (0, 1), ExperimentConfig(epochs=9))]
    (folder / "run.json.partial").rename(folder / "study.json.partial")
    run_folder.check_folders(folder, variants, overwrite=False)


def test_what_a_killed_save_left_is_removed(stopped, uninterrupted):
    for name in ("11.orbax-checkpoint-tmp", "12.orbax-checkpoint-tmp-1763"):
        (stopped / "checkpoints" / name / "models").mkdir(parents=True)
    run_sweep(SWEEP, stopped, Recorder())
    assert not [path for path in stopped.rglob("*") if "tmp" in path.name]
    assert_same_run(stopped, uninterrupted)


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, status):
    folder = tmp_path / "a run"
    script = Script(tmp_path, "sweep.py", *LONG_SWEEP, "--out", folder)
    wait_until(lambda: (folder / "checkpoints").is_dir() and checkpoints_of(folder), script)
    os.kill(script.pid, number)
    ended, output, errors = script.wait()
    assert (ended, errors) == (status, [])
    to_go_on = f"stopped; to go on: python scripts/sweep.py --resume '{folder}'"
    assert output.splitlines()[-1] == to_go_on
    assert checkpoint.restore(folder).block == checkpoints_of(folder)[-1]
    assert not run_folder.read_run(folder)["finished"]


def hang_while_saving():
    def close(writer):
        Path("hangs").touch()
        while True:
            time.sleep(0.1)

    checkpoint.Writer.close = close


def test_a_second_ctrl_c_leaves_at_once_even_if_the_disk_hangs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [*LONG_SWEEP, "--out", tmp_path / "run"]
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


def test_variants_that_were_stopped_go_on_where_they_were(tmp_path, monkeypatch, uninterrupted):
    variants = [with_settings(learning_rate=rate) for rate in (0.001, 0.1)]
    told = [Recorder(), stop_at(7), Recorder(), Recorder()]
    reporters = iter(told)
    monkeypatch.setattr(study, "reporter_for", lambda _: nullcontext(next(reporters)))
    monkeypatch.setattr(study, "publish", lambda *_: [])
    with pytest.raises(Interrupted):
        study.run_study(variants, tmp_path, RunOptions())
    assert not (tmp_path / "variants.csv").exists()
    again = run_folder.read_configs(tmp_path)
    assert again == variants
    study.run_study(again, tmp_path, RunOptions())
    assert [reporter.said[1] for reporter in told[2:]] == [
        "resumed after 304 of 304 steps",
        "resumed after 141 of 304 steps",
    ]
    assert_same_run(tmp_path / "learning_rate=0.001", uninterrupted)
    rows = (tmp_path / "variants.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 and rows[0].startswith("variant,hidden_size,")


# Damage


def flip(path, position, bit):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def found_after(folder, original):
    """Whether the damage to checkpoint 9 was found; if not, it must have been harmless."""
    warnings = []
    restored = checkpoint.restore(folder, warn=warnings.append)
    if restored.block == 9:
        assert not warnings
        assert_same_bytes(restored.items, original.items)
        assert restored.settings == original.settings
        return False
    (warning,) = warnings
    assert f"{folder / 'checkpoints' / '9'} is damaged" in warning
    assert restored.block == 5
    return True


@pytest.mark.parametrize("kind", ["arrays", "everything"])
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(stopped, kind):
    original, newest = checkpoint.restore(stopped), stopped / "checkpoints" / "9"
    files = [path for path in files_of(newest) if kind != "arrays" or path.parent.name == "d"]
    draw, found = random.Random(1), 0
    for _ in range(32):
        path = draw.choices(files, [file.stat().st_size for file in files])[0]
        position, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        flip(path, position, bit)
        found += found_after(stopped, original)
        flip(path, position, bit)
    assert found >= 16
    assert checkpoint.restore(stopped).block == 9


@pytest.mark.parametrize("damage", ["cut in half", "emptied", "deleted"])
def test_a_damaged_file_is_found_and_the_checkpoint_before_is_used(stopped, damage):
    original, newest = checkpoint.restore(stopped), stopped / "checkpoints" / "9"
    found = []
    for path in files_of(newest):
        content = path.read_bytes()
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "cut in half" else b"")
        if found_after(stopped, original):
            found.append(path.relative_to(newest))
        path.write_bytes(content)
    assert Path("manifest/metadata") in found
    assert len([path for path in found if path.parent.name == "d"]) >= 4


@pytest.mark.parametrize("left", [0, 1, 5, 12])
def test_a_run_goes_on_from_before_a_half_deleted_checkpoint(stopped, uninterrupted, left):
    for path in files_of(stopped / "checkpoints" / "9")[left:]:
        path.unlink()
    reporter = Recorder()
    with pytest.raises(Interrupted):
        run_sweep(SWEEP, stopped, stop_at(9))  # saves the same checkpoint again
    run_sweep(SWEEP, stopped, reporter)
    assert reporter.said[1] == "resumed after 181 of 304 steps" and not reporter.warned
    assert_same_run(stopped, uninterrupted)


def test_a_damaged_checkpoint_is_named_when_the_run_goes_on(stopped, uninterrupted):
    (stopped / "checkpoints" / "9" / "models" / "manifest.ocdbt").write_bytes(b"")
    reporter = Recorder()
    run_sweep(SWEEP, stopped, reporter)
    (warning,) = reporter.warned
    assert f"{stopped / 'checkpoints' / '9'} is damaged" in warning and "\n" not in warning
    assert reporter.said[1] == "resumed after 101 of 304 steps"
    assert_same_run(stopped, uninterrupted)


def test_if_every_checkpoint_is_damaged_nothing_is_guessed(stopped):
    for block in (5, 9):
        (stopped / "checkpoints" / str(block) / "manifest" / "metadata").write_bytes(b"{}")
    before = files_of(stopped)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        run_sweep(SWEEP, stopped, Recorder())
    assert files_of(stopped) == before
    run_sweep(SWEEP, stopped, Recorder(), RunOptions(overwrite=True))
    assert run_folder.read_run(stopped)["finished"]


def change_dtype(state):
    return state._replace(dev_loss=state.dev_loss.astype(np.float16))


def change_shape(state):
    return state._replace(train_loss=state.train_loss[:, :-1])


def drop_parameter(state):
    recurrent = {name: array for name, array in state.parameters["srn"].items() if name != "U"}
    return state._replace(parameters=state.parameters | {"srn": recurrent})


def add_experiment(state):
    return jax.tree.map(lambda array: np.concatenate([array, array[:1]]), state)


@pytest.mark.parametrize("change", [change_dtype, change_shape, drop_parameter, add_experiment])
def test_arrays_of_another_dtype_or_shape_are_refused(stopped, change):
    newest = checkpoint.restore(stopped)
    sweep = Sweep(SWEEP)
    state = checkpoint.join_state(newest.items, like=sweep.gather(sweep.state))
    writer = checkpoint.Writer(stopped, newest.settings)
    writer.save(10, change(state))
    writer.close()
    with pytest.raises(UserError, match=r"the checkpoint has .* expected .* not of this sweep"):
        run_sweep(SWEEP, stopped, Recorder())


def test_a_checkpoint_of_something_else_is_damaged(stopped):
    foreign = ocp.CheckpointManager(stopped / "checkpoints")
    foreign.save(10, args=ocp.args.StandardSave({"weights": np.arange(3)}))
    foreign.close()
    warnings = []
    assert checkpoint.restore(stopped, warn=warnings.append).block == 9
    assert len(warnings) == 1


class Bomb:
    """Goes off where it is unpickled."""

    def __reduce__(self):
        return explode, ()


def explode(*_, **__):
    raise AssertionError("something was unpickled")


def test_nothing_is_ever_unpickled(stopped, uninterrupted, tmp_path, monkeypatch):
    with np.load(uninterrupted / "histories.npz") as arrays:
        bomb = dict(arrays) | {"length": np.array([Bomb(), Bomb()], dtype=object)}
    np.savez(stopped / "histories.npz", **bomb)
    with pytest.raises(UserError, match=r"Object arrays cannot be loaded when allow_pickle=False"):
        study.read_histories(stopped)
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, explode)
    assert checkpoint.restore(stopped).block == 9
    study.load_run(stopped)


# The wrong run


def with_settings(**settings):
    experiment = {"epochs": 8, "eval_interval": 20} | settings
    return SweepConfig((3, 5), (0, 1), ExperimentConfig(**experiment))


def test_other_settings_are_refused_and_named(stopped):
    before = {path: path.read_bytes() for path in files_of(stopped)}
    other = with_settings(learning_rate=0.1, hidden_size=4)
    with pytest.raises(UserError) as caught:
        run_sweep(other, stopped, Recorder())
    assert "hidden_size: 32, now 4; learning_rate: 0.001, now 0.1" in str(caught.value)
    with pytest.raises(UserError, match=r"seeds: \[0, 1\], now \[0, 2\]"):
        run_sweep(SweepConfig((3, 5), (0, 2), SWEEP.experiment), stopped, Recorder())
    assert {path: path.read_bytes() for path in files_of(stopped)} == before


def test_checkpoints_of_other_settings_are_refused_and_the_settings_named(stopped, tmp_path):
    with pytest.raises(Interrupted):
        run_sweep(with_settings(learning_rate=0.1), tmp_path / "other", stop_at(11))
    shutil.copytree(tmp_path / "other" / "checkpoints" / "11", stopped / "checkpoints" / "11")
    for attempt in (lambda: run_sweep(SWEEP, stopped, Recorder()), lambda: study.load_run(stopped)):
        with pytest.raises(UserError, match=r"learning_rate: 0\.1, now 0\.001"):
            attempt()


def test_only_overwrite_loses_a_run(stopped):
    other = with_settings(learning_rate=0.1)
    run_sweep(other, stopped, Recorder(), RunOptions(overwrite=True))
    assert checkpoints_of(stopped) == [BLOCKS]
    assert run_folder.config_of(run_folder.read_run(stopped)["settings"]) == other


@pytest.mark.parametrize("name", ["thesis.tex", "results.csv"])
def test_a_folder_with_anything_else_in_it_is_refused(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match=f"not empty and not the folder of a run .it has {name}"):
        run_sweep(SWEEP, tmp_path, Recorder())
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not the folder of a run"):
        run_sweep(SWEEP, tmp_path, Recorder(), RunOptions(overwrite=True))
    assert (tmp_path / name).read_text() == "years of work"


def test_other_variants_are_refused(tmp_path):
    run_folder.write_study(tmp_path, [with_settings(epochs=1), with_settings(epochs=2)])
    run_folder.check_folders(tmp_path, run_folder.read_configs(tmp_path), overwrite=False)
    others = [with_settings(epochs=1), with_settings(epochs=3)]
    with pytest.raises(UserError, match=r"holds other variants \(epochs=1, epochs=2\)"):
        run_folder.check_folders(tmp_path, others, overwrite=False)


def test_a_run_folder_belongs_to_one_process_and_the_lock_dies_with_it(tmp_path):
    script = Script(tmp_path, "sweep.py", *LONG_SWEEP, "--out", tmp_path / "run")
    wait_until(lambda: "step" in script.out.read_text(), script)
    config = run_folder.config_of(run_folder.read_run(tmp_path / "run")["settings"])
    for options in (RunOptions(), RunOptions(overwrite=True)):
        with pytest.raises(UserError, match="in use by another process"):
            run_sweep(config, tmp_path / "run", Recorder(), options)
    script.kill()
    script.join()
    with run_folder.locked(tmp_path / "run"):
        pass


# A failing experiment


def test_a_failing_experiment_is_reported_and_leaves_the_others_alone(
    tmp_path, monkeypatch, capsys, uninterrupted
):
    class OneBroken(Sweep):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            state = self.gather(self.state)
            state.parameters["srn"]["U"][2] = np.nan
            self.state = self.scatter(state)

    monkeypatch.setattr(run, "Sweep", OneBroken)
    study.run_and_publish(SWEEP, tmp_path / "run", RunOptions())
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


@pytest.mark.slow
def test_a_sweep_that_diverges_altogether_still_ends_well(tmp_path):
    command = shlex.split("--platform cpu --cpu-devices 1 --lengths 3 --seeds 4 --epochs 2")
    command += ["--learning-rate", 1e30, "--out", tmp_path / "run"]
    status, output, errors = Script(tmp_path, "sweep.py", *command).wait()
    assert (status, errors) == (0, [])
    assert output.splitlines()[-1].startswith("4 of 4 experiments diverged")
    results = read_results(tmp_path / "run")
    assert results.diverged.all()
    _, accuracy = evaluation.accuracies(evaluation.restore(tmp_path / "run"))
    assert np.array_equal(accuracy, results.test_accuracy, equal_nan=True)
    assert np.isnan(accuracy).all()


# The disk


def small_files_only():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def test_a_full_disk_costs_one_line_and_no_checkpoint(stopped, uninterrupted, tmp_path):
    pytest.importorskip("resource")
    command = ["--resume", stopped, "--platform", "cpu", "--cpu-devices", 2]
    script = Script(tmp_path, "sweep.py", *command, prepare=small_files_only)
    status, _, errors = script.wait()
    assert status == 1
    (line,) = errors
    assert line.startswith(f"error: no checkpoint could be written to {stopped / 'checkpoints'}: ")
    assert checkpoint.restore(stopped).block == 9
    run_sweep(SWEEP, stopped, Recorder())
    assert_same_run(stopped, uninterrupted)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_results_that_cannot_be_written_cost_one_line(stopped, uninterrupted, tmp_path):
    (stopped / "results.csv.partial").symlink_to("/dev/full")
    command = ["--resume", stopped, "--platform", "cpu", "--cpu-devices", 2]
    status, _, errors = Script(tmp_path, "sweep.py", *command).wait()
    assert (status, len(errors)) == (1, 1)
    assert "No space left" in errors[0]
    (stopped / "results.csv.partial").unlink()
    run_sweep(SWEEP, stopped, Recorder())
    assert_same_run(stopped, uninterrupted)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")
def test_a_folder_that_cannot_be_made_costs_one_line(tmp_path):
    command = [*LONG_SWEEP, "--out", "/proc/self/run"]
    status, _, errors = Script(tmp_path, "sweep.py", *command).wait()
    assert (status, len(errors)) == (1, 1)
    assert "/proc/self/run" in errors[0]


def test_a_folder_moved_away_stops_the_run_and_keeps_its_checkpoints(stopped, tmp_path):
    moved = tmp_path / "moved"
    reporter = Recorder(lambda progress: progress.block == 12 and stopped.rename(moved))
    with pytest.raises(
        OSError, match="was removed or replaced while its run was going on"
    ) as error:
        run_sweep(SWEEP, stopped, reporter, SAVE_ALWAYS)
    assert not isinstance(error.value, UserError)
    assert checkpoint.restore(moved).block >= 9


def test_a_folder_deleted_during_the_run_costs_one_line(tmp_path):
    folder = tmp_path / "run"
    script = Script(tmp_path, "sweep.py", *LONG_SWEEP, "--out", folder)
    wait_until(lambda: (folder / "checkpoints").is_dir() and checkpoints_of(folder), script)
    while script.is_alive():
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
    status, _, errors = script.wait()
    assert (status, len(errors)) == (1, 1)
    assert errors[0].startswith("error: ") and str(folder) in errors[0]


def test_figures_that_cannot_be_drawn_cost_no_results(stopped, uninterrupted, capsys):
    (stopped / "figures").write_text("in the way")
    study.run_and_publish(SWEEP, stopped, RunOptions())
    assert_same_run(stopped, uninterrupted)
    assert (stopped / "report.md").exists() and (stopped / "log.txt").exists()
    output = capsys.readouterr().out
    assert "warning: the figures could not be drawn (FileExistsError" in output
    study.publish_comparison(stopped, {"one": read_results(stopped)})
    assert (stopped / "comparison.md").exists()
    assert "warning: the comparison could not be drawn" in capsys.readouterr().out


def test_reading_a_run_that_goes_on_changes_nothing_in_it(tmp_path, uninterrupted):
    folder = tmp_path / "run"

    def look(progress):
        assert json.loads((folder / "run.json").read_text())["finished"] is False
        if progress.block in (4, 8):
            while any("tmp" in path.name for path in (folder / "checkpoints").iterdir()):
                time.sleep(0.001)  # a save is under way
            before = {path: path.read_bytes() for path in files_of(folder)}
            study.load_run(folder)
            assert {path: path.read_bytes() for path in files_of(folder)} == before

    run_sweep(SWEEP, folder, Recorder(look), SAVE_ALWAYS)
    assert_same_run(folder, uninterrupted)
