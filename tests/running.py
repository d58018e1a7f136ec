"""What the tests of runs share: a small sweep, a reporter, and scripts as processes."""

import multiprocessing
import os
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import jax

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.runs import checkpoint, loop
from srn_jax.runs import folder as run_folder
from srn_jax.runs.loop import COMPILING, RunOptions

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = {"epochs": 8, "eval_interval": 20, "hidden_size": 8, "embedding_size": 8}
SWEEP = SweepConfig((3, 5), (0, 1), ExperimentConfig(**SMALL))
BLOCKS = 16  # 304 steps
COMMAND = shlex.split(  # the same as a script, which finds its program compiled
    "--platform cpu --cpu-devices 2 --lengths 3 5 --seeds 2 --hidden-size 8 --embedding-size 8 "
    "--epochs 8 --eval-interval 20 --checkpoint-every 1e-6"
)
SAVE_ALWAYS = RunOptions(checkpoint_every=1e-9)


def with_settings(**settings):
    return SweepConfig((3, 5), (0, 1), ExperimentConfig(**SMALL | settings))


class Recorder:
    """A reporter that keeps what it is told and calls `at` after every interval."""

    def __init__(self, at=lambda progress: None):
        self.said, self.warned, self.at = [], [], at

    def say(self, message):
        if message != COMPILING:
            self.said.append(message)

    def warn(self, message):
        self.warned.append(message)

    def progress(self, progress):
        self.at(progress)


def stop_at(*blocks, number=signal.SIGTERM):
    return Recorder(lambda progress: progress.block in blocks and signal.raise_signal(number))


def checkpoints_of(folder):
    return checkpoint.blocks_in(folder)[::-1]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def contents_of(folder):
    return {path: path.read_bytes() for path in files_of(folder) if path.name != "lock"}


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
        number = len(list(folder.glob(f"{name}.*.out")))
        self.out, self.err = (folder / f"{name}.{number}.{stream}" for stream in ("out", "err"))
        arguments = [str(argument) for argument in arguments]
        for path in (self.out, self.err):
            path.touch()
        settings = (name, arguments, self.out, self.err, prepare)
        super().__init__(target=run_as_script, args=settings, daemon=True)
        self.start()

    def wait(self, seconds=300):
        """Exit status, standard output and the lines of standard error."""
        self.join(seconds)
        return self.exitcode, self.out.read_text(), self.err.read_text().splitlines()


def run_as_script(name, arguments, out, err, prepare):
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    sys.path.insert(0, str(SCRIPTS))
    sys.argv = [name, *arguments]
    if prepare is not None:
        prepare()
    from srn_jax.analysis import drawing
    from srn_jax.cli import options as cli

    drawing.start_helpers = lambda _: nullcontext(())  # as `run_here` in conftest.py
    cli.run_script(__import__(name.removesuffix(".py")).main)


def slowly():
    """As `prepare` of a script: a block of training takes long enough to be interrupted."""
    loop.INTERVAL_SECONDS = 0
    look = loop.look

    def look_slowly(*arguments):
        time.sleep(0.3)
        return look(*arguments)

    loop.look = look_slowly


def wait_until(condition, script):
    while not condition():
        assert script.is_alive(), f"ended too early: {script.wait()}"
        time.sleep(0.001)
