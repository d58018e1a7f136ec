"""Checkpoints: damage is found and set aside, what may be good is never touched."""

import errno
import logging
import os
import pickle
import random
import runpy
import sys
import threading
import time
import tracemalloc
from unittest.mock import Mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from running import (
    BLOCKS,
    SAVE_ALWAYS,
    SWEEP,
    Recorder,
    assert_same_bytes,
    assert_same_run,
    checkpoints_of,
    contents_of,
    files_of,
    stop_at,
)

from srn_jax.analysis.results import read_histories
from srn_jax.cli.publish import load_run
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.runs import checkpoint, loop, storage
from srn_jax.runs import folder as run_folder
from srn_jax.runs.group import run_sweep
from srn_jax.runs.loop import RunOptions
from srn_jax.runs.signals import Interrupted

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


def test_a_checkpoint_under_another_number_is_not_taken_for_that(stopped):
    (stopped / "checkpoints" / "9").rename(stopped / "checkpoints" / "12")
    reporter = Recorder()
    assert checkpoint.restore(stopped, reporter.warn).block == 5
    (warning,) = reporter.warned
    assert "12 is damaged (it was saved as number 9)" in warning


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(stopped):
    original, newest = checkpoint.restore(stopped), stopped / "checkpoints" / "9"
    files, draw, found = files_of(newest), random.Random(1), []
    arrays = [path for path in files if path.parent.name == "d"]
    for number in range(16):
        some = arrays if number % 2 else files
        path = draw.choices(some, [file.stat().st_size for file in some])[0]
        position, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        flip(path, position, bit)
        found.append(found_after(stopped, original))
        flip(path, position, bit)
    assert sum(found) >= 8
    assert checkpoint.restore(stopped).block == 9


@pytest.mark.slow
def test_a_damaged_file_is_found_and_the_checkpoint_before_is_used(stopped):
    original, newest = checkpoint.restore(stopped), stopped / "checkpoints" / "9"
    found = set()
    for number, path in enumerate(files_of(newest)):
        content = path.read_bytes()
        path.unlink()
        if number % 2:  # cut in half
            path.write_bytes(content[: len(content) // 2])
        if found_after(stopped, original):
            found.add(str(path.relative_to(newest)))
        path.write_bytes(content)
    assert "manifest/metadata" in found
    assert len([name for name in found if "/d/" in name]) >= 4


@pytest.mark.slow
def test_a_run_goes_on_from_before_a_half_deleted_checkpoint(stopped, uninterrupted):
    reporter = Recorder()
    for left in (5, 0):
        for path in files_of(stopped / "checkpoints" / "9")[left:]:
            path.unlink()
        if left:
            with pytest.raises(Interrupted):
                run_sweep(SWEEP, stopped, stop_at(9))  # saves the same checkpoint again
    run_sweep(SWEEP, stopped, reporter)
    assert reporter.said[1] == "resumed after 101 of 304 steps" and len(reporter.warned) == 1
    assert_same_run(stopped, uninterrupted)


def test_a_damaged_checkpoint_is_named_and_set_aside_until_a_later_one_is_good(
    stopped, uninterrupted
):
    (stopped / "checkpoints" / "9" / "models" / "manifest.ocdbt").write_bytes(b"")
    damaged, seen = contents_of(stopped / "checkpoints" / "9"), []

    def look(progress):
        if progress.block == 6:
            seen.append({path.name: path for path in (stopped / "checkpoints").iterdir()})
            aside = stopped / "checkpoints" / "9.damaged"
            assert [*contents_of(aside).values()] == [*damaged.values()]

    reporter = Recorder(look)
    run_sweep(SWEEP, stopped, reporter)
    (warning,) = reporter.warned
    assert f"{stopped / 'checkpoints' / '9'} is damaged" in warning and "\n" not in warning
    assert reporter.said[1] == "resumed after 101 of 304 steps"
    assert [*seen[0]] and {*seen[0]} == {"5", "9.damaged"}
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == ["16", "5"]
    assert_same_run(stopped, uninterrupted)


def test_if_every_checkpoint_is_damaged_nothing_is_guessed_and_nothing_touched(stopped):
    for block in (5, 9):
        (stopped / "checkpoints" / str(block) / "manifest" / "metadata").write_bytes(b"{}")
    before = contents_of(stopped)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        run_sweep(SWEEP, stopped, Recorder())
    assert contents_of(stopped) == before
    for block in (5, 9):
        (stopped / "checkpoints" / str(block)).rename(stopped / f"checkpoints/{block}.damaged")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        run_sweep(SWEEP, stopped, Recorder())
    run_sweep(SWEEP, stopped, Recorder(), RunOptions(overwrite=True))
    assert run_folder.read_run(stopped)["finished"]


def test_a_checkpoint_of_something_else_is_damaged(stopped):
    foreign = ocp.CheckpointManager(stopped / "checkpoints")
    foreign.save(10, args=ocp.args.StandardSave({"weights": np.arange(3)}))
    foreign.close()
    warnings = []
    assert checkpoint.restore(stopped, warn=warnings.append).block == 9
    assert len(warnings) == 1


# What is not damage


READ_ERRORS = [
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EMFILE, "Too many open files"),
    MemoryError(),
    ValueError("NOT_FOUND: Error opening: Error reading local file [os_error_code='5']"),
    ValueError("PERMISSION_DENIED: Error opening local file"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 128 bytes"),
]


@pytest.mark.slow
def test_what_cannot_be_read_may_be_good_and_stays(stopped, uninterrupted, monkeypatch):
    before = contents_of(stopped)
    for error in READ_ERRORS:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.Checkpointer, "restore", Mock(side_effect=error))
            with pytest.raises(OSError, match=r"cannot be read .* nothing was changed") as caught:
                run_sweep(SWEEP, stopped, Recorder())
        assert "\n" not in str(caught.value) and not isinstance(caught.value, UserError)
        assert contents_of(stopped) == before, error
    run_sweep(SWEEP, stopped, Recorder())
    assert_same_run(stopped, uninterrupted)


@pytest.mark.parametrize("call", ["read_bytes", "stat"])
def test_an_error_that_orbax_swallows_is_found_by_reading(stopped, monkeypatch, call):
    unreadable = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(ocp.Checkpointer, "restore", Mock(side_effect=KeyError("models")))
    monkeypatch.setattr(f"pathlib.Path.{call}", Mock(side_effect=unreadable))
    with pytest.raises(checkpoint.CheckpointError, match="Permission denied"):
        storage.load(stopped / "checkpoints" / "9")


# Arrays of another kind


def change_dtype(training):
    training["evaluations"]["dev_loss"] = training["evaluations"]["dev_loss"].astype(np.float16)


def change_shape(training):
    training["steps"]["train_loss"] = training["steps"]["train_loss"][:, :-1]


def drop_history(training):
    del training["steps"]["train_loss"]


def add_experiment(training):
    training.update(jax.tree.map(lambda array: np.concatenate([array, array[:1]]), training))


@pytest.mark.parametrize("change", [change_dtype, change_shape, drop_history, add_experiment])
def test_arrays_of_another_dtype_or_shape_are_refused(stopped, change):
    newest = checkpoint.restore(stopped)
    change(newest.items["training"])
    checkpoint.write(stopped, 10, newest.items, newest.settings)
    with pytest.raises(UserError, match=r"the checkpoint has .* expected .* not of this sweep"):
        run_sweep(SWEEP, stopped, Recorder())


class Bomb:
    """Goes off where it is unpickled."""

    def __reduce__(self):
        return explode, ()


def explode(*_, **__):
    raise AssertionError("something was unpickled")


def test_nothing_is_ever_unpickled(stopped, uninterrupted, monkeypatch):
    with np.load(uninterrupted / "histories.npz") as arrays:
        bomb = dict(arrays) | {"length": np.array([Bomb(), Bomb()], dtype=object)}
    np.savez(stopped / "histories.npz", **bomb)
    with pytest.raises(UserError, match=r"Object arrays cannot be loaded when allow_pickle=False"):
        read_histories(stopped)
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, explode)
    assert checkpoint.restore(stopped).block == 9
    load_run(stopped)


# Saving


def test_a_failed_save_ends_the_run_at_once_with_the_error_that_matters(stopped, monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    before = len(threading.enumerate())
    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    monkeypatch.setattr(run_folder, "write_run", full)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"no checkpoint .*: No space left .* before it are kept"):
        run_sweep(SWEEP, stopped, Recorder(), SAVE_ALWAYS)
    assert time.monotonic() - began < 60
    assert len(threading.enumerate()) == before
    assert checkpoint.restore(stopped).block == 9


def test_a_program_that_imports_and_saves_keeps_its_own_logging_and_hooks(tmp_path):
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    logger.setLevel(logging.INFO)
    with pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module("srn_jax.runs.storage")  # as it is imported for the first time
        runpy.run_module("srn_jax.runs.checkpoint")
    assert (logger.level, sys.unraisablehook) == (logging.INFO, hook)
    run_sweep(SWEEP, tmp_path / "run", Recorder(), SAVE_ALWAYS)
    checkpoint.restore(tmp_path / "run")
    assert (logger.level, sys.unraisablehook) == (logging.INFO, hook)


def test_the_cost_of_a_checkpoint_counts_gathering_and_digests(tmp_path, monkeypatch):
    def slowly(sweep):
        time.sleep(0.2)
        return gather(sweep)

    def describe_slowly(*arguments, **options):
        time.sleep(0.2)
        return describe(*arguments, **options)

    gather, describe, writers = loop.gather, storage.describe, []
    monkeypatch.setattr(loop, "gather", slowly)
    monkeypatch.setattr(storage, "describe", describe_slowly)
    init = checkpoint.Writer.__init__
    monkeypatch.setattr(
        checkpoint.Writer, "__init__", lambda w, *a: writers.append(w) or init(w, *a)
    )
    run_sweep(SWEEP, tmp_path / "run", Recorder())
    assert writers[0].cost > 0.4
    assert loop.rest(RunOptions(), 1.0) == 50


def test_a_digest_copies_no_array():
    array = np.zeros(40_000_000, np.uint8)
    tracemalloc.start()
    storage.describe({"a": array})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_collecting_a_run_that_goes_on_compiles_no_training(stopped, monkeypatch):
    monkeypatch.setattr(Sweep, "__init__", explode)
    assert load_run(stopped).histories.train_loss.shape == (4, 304)


def test_reading_a_run_that_goes_on_changes_nothing_in_it(tmp_path, uninterrupted, monkeypatch):
    folder, save = tmp_path / "run", checkpoint.Writer.save

    def save_and_wait(writer, *arguments):
        save(writer, *arguments)
        writer.close()

    def look(progress):
        assert run_folder.read_run(folder)["finished"] is False
        if progress.block in (4, 8):
            before = contents_of(folder)
            load_run(folder)
            assert contents_of(folder) == before

    monkeypatch.setattr(checkpoint.Writer, "save", save_and_wait)
    run_sweep(SWEEP, folder, Recorder(look), SAVE_ALWAYS)
    assert_same_run(folder, uninterrupted)
    assert checkpoints_of(folder) == [BLOCKS - 1, BLOCKS]


def test_the_name_of_a_removed_checkpoint_is_never_that_of_a_good_one(stopped, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.remove(stopped / "checkpoints" / "9")
    assert checkpoints_of(stopped) == [5] and os.listdir(stopped / "checkpoints") != ["5"]
