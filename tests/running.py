"""What the tests of runs share: a small sweep, a reporter, and what a folder holds."""

import signal

import jax

from srn_jax.config import ExperimentConfig, SweepConfig

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
