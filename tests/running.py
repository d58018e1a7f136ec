"""What the tests of runs share: a small sweep, a reporter, and what a folder holds."""

import multiprocessing
import os
import signal
import sys
import time

import jax

from srn_jax.analysis.records import histories_npz
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.runs import train
from srn_jax.runs.networks import open_run
from srn_jax.runs.train import Interrupted

SMALL = {"epochs": 8, "eval_interval": 20, "hidden_size": 8, "embedding_size": 8}
SWEEP = SweepConfig((3, 5), (0, 1), ExperimentConfig(**SMALL))
BLOCKS = 16  # 304 steps


def with_settings(**settings):
    return SweepConfig((3, 5), (0, 1), ExperimentConfig(**SMALL | settings))


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


def contents_of(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_same_bytes(items, others):
    one, other = jax.tree.leaves(items), jax.tree.leaves(others)
    assert [(a.dtype, a.tobytes()) for a in one] == [(a.dtype, a.tobytes()) for a in other]


def state_of(folder, number=0):
    """The newest state of a part."""
    return open_run(folder).items(number)


def assert_same_run(folder, other):
    """Whether two folders hold the same results, histories and states, whatever their parts."""
    one, two = open_run(folder), open_run(other)
    assert one.info["finished"] and two.info["finished"]
    assert (folder / "results.csv").read_bytes() == (other / "results.csv").read_bytes()
    for ours, theirs in zip(one.record.variants, two.record.variants, strict=True):
        assert histories_npz(ours.histories) == histories_npz(theirs.histories), ours.name
        for which in ("best", "last"):
            networks = [run.networks(ours.name, which=which) for run in (one, two)]
            assert_same_bytes(*(found.parameters for found in networks))


# Processes of their own, which cost no imports: they are forked from one that has imported JAX and
# done nothing with it.


class Process(multiprocessing.get_context("forkserver").Process):
    """A function in a process, whose output and errors are files; it ends with 128 + signal."""

    def __init__(self, folder, function, *arguments, prepare=None):
        number = len(list(folder.glob("*.out")))
        self.out, self.err = (folder / f"{number}.{stream}" for stream in ("out", "err"))
        for path in (self.out, self.err):
            path.touch()
        settings = (function, arguments, self.out, self.err, prepare)
        super().__init__(target=in_process, args=settings, daemon=True)
        self.start()

    def wait(self, seconds=120):
        """Exit status, standard output and the lines of standard error."""
        self.join(seconds)
        return self.exitcode, self.out.read_text(), self.err.read_text().splitlines()


def in_process(function, arguments, out, err, prepare):
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    if prepare is not None:
        prepare()
    try:
        function(*arguments)
    except Interrupted as stop:
        sys.exit(128 + stop.signal)
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


class Printer(Recorder):
    """Prints what it is told."""

    def say(self, message):
        print(message, flush=True)

    def warn(self, message):
        print("warning:", message, file=sys.stderr, flush=True)


def train_here(folder, configs=(SWEEP,), every=1e-9):
    """Train in this process with a checkpoint after every block, or as seldom as is said."""
    train.INTERVAL_SECONDS = 0
    train.train_run(configs, folder, Printer(), train.RunOptions(checkpoint_every=every))


def slowly():
    """As `prepare` of a process: a block of training takes long enough to be interrupted."""
    look = train.look

    def look_slowly(*arguments):
        time.sleep(0.3)
        return look(*arguments)

    train.look = look_slowly


def wait_until(condition, process):
    while not condition():
        assert process.is_alive(), f"ended too early: {process.wait()}"
        time.sleep(0.001)
