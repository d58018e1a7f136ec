"""What is compiled: all that experiments which train side by side have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from srn_jax.cells import cell_class
from srn_jax.cells.recurrence import parts_of
from srn_jax.config import ExperimentConfig, SweepConfig, is_number
from srn_jax.own_files import describe, path_of, resolve
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Task
from srn_jax.training import probes

LOSS_INTERVAL = 100  # steps between the training losses that are kept, as in the textbook
FEWEST_LOSSES = 100  # so those of a short run are denser


class Hyperparameters(NamedTuple):
    """Settings that change no shape: scalars, so that experiments can differ in them."""

    learning_rate: Any  # NaN where it is a function
    weight_decay: Any
    clip_norm: Any
    forget_bias: Any
    chrono: Any


def hyperparameters_of(config: ExperimentConfig) -> Hyperparameters:
    """The settings of an experiment that change no shape."""
    rate = config.learning_rate if is_number(config.learning_rate) else np.nan
    clip_norm, chrono = config.clip_norm or np.inf, config.chrono or np.nan
    numbers = rate, config.weight_decay, clip_norm, config.forget_bias, chrono
    return Hyperparameters(*map(np.float32, numbers))


@dataclass(frozen=True)
class Program:
    """The task, the classes and the settings of a program; it is found again by all of it."""

    task: Task
    cell: Any  # the class: one's own file may have changed under its name
    config: ExperimentConfig  # what changes no shape is at its default; objects, not FILE.py:NAME
    probes: tuple[tuple[str, Any], ...] = ()  # a name for messages, and the probe
    train_examples: int = 300
    every_loss: bool = False  # keep the training loss of every step
    kernel: bool = False  # train by the kernels for GPUs, where they apply
    platform: str = "cpu"  # how the loops over time are written
    parts: tuple[Any, ...] = ()  # of the cell's class, which a notebook may change

    @cached_property
    def steps(self) -> int:
        """Training steps of the whole experiment: 19,000 with the textbook's settings."""
        return self.config.steps or self.config.epochs * self.steps_an_epoch

    @cached_property
    def steps_an_epoch(self) -> int:
        """Steps in which every example of a training set is seen once; the last batch kept."""
        return -(-self.train_examples // self.config.batch_size)

    @cached_property
    def eval_steps(self) -> np.ndarray:
        """The steps after which the dev set is evaluated: every `eval_interval`, and the last."""
        regular = np.arange(self.config.eval_interval, self.steps, self.config.eval_interval)
        return np.union1d(regular, [self.steps - 1]).astype(np.int32)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first global step of each block, `[block]`; a block ends with its evaluation."""
        return np.concatenate([[0], self.eval_steps[:-1] + 1]).astype(np.int32)

    @cached_property
    def places(self) -> int:
        """The steps of the longest block."""
        return int((self.eval_steps + 1 - self.starts).max())

    @cached_property
    def loss_stride(self) -> int:
        """Steps between two training losses that are kept."""
        return 1 if self.every_loss else min(LOSS_INTERVAL, max(1, self.steps // FEWEST_LOSSES))

    @cached_property
    def loss_steps(self) -> np.ndarray:
        """The global steps whose training loss is kept, `[kept]`: every hundredth, or more."""
        return np.arange(0, self.steps, self.loss_stride, dtype=np.int32)


def program_of(
    configs: SweepConfig | Sequence[SweepConfig], files=None, kernel=False, platform: Any = None
) -> Program:
    """The program of sweeps that differ in what changes no shape; `platform` None is JAX's own."""
    configs = [configs] if isinstance(configs, SweepConfig) else list(configs)
    config, task = configs[0], task_of(configs[0])
    settings = config.experiment.program
    for name in ("optimizer", "learning_rate"):  # found again by what is in the file now
        if path_of(value := getattr(settings, name)) is not None:
            settings = replace(settings, **{name: resolve(value, {})})
    number, cell = task.examples * settings.multiplicity, cell_class(settings.cell)
    if files is not None:
        number = len(next(iter(files.values())).train)
    seen = tuple((describe(one), resolve(one, probes.BY_NAME)) for one in config.probes)
    how = bool(kernel), platform or jax.default_backend(), parts_of(cell)
    return Program(task, cell, settings, seen, number, config.every_loss, *how)
