"""What a run shows while it goes on: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import rich.progress
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from srn_jax.config import SweepConfig
from srn_jax.errors import warn
from srn_jax.runs.loop import Progress, Reporter

SECONDS_BETWEEN_LINES = 5.0


class PlainReporter:
    """Lines that can be read in a log file, the first at once and then one every few seconds."""

    def __init__(self, config: SweepConfig):
        self._config = config
        self._began: tuple[float, int] | None = None
        self._next_line = 0.0

    def say(self, message: str) -> None:
        """Print a line."""
        print(message, flush=True)

    def warn(self, message: str) -> None:
        """Print a line on standard error."""
        warn(message)

    def progress(self, progress: Progress) -> None:
        """Print how far it is, unless it did so a moment ago."""
        now = time.monotonic()
        self._began = self._began or (now, progress.step)
        if now >= self._next_line or progress.block == progress.blocks:
            self._next_line = now + SECONDS_BETWEEN_LINES
            rate = (progress.step - self._began[1]) / max(now - self._began[0], 1e-9)
            self.say(f"{headline(progress, rate)}  {curves(self._config, progress)}")


class Bar(rich.progress.Progress):
    """A progress bar with lines of text under it."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, then the text."""
        yield from super().get_renderables()
        yield Text(self.below)


class BarReporter(PlainReporter):
    """A bar with rate and time left, and the curves so far under it."""

    def __init__(self, config: SweepConfig):
        super().__init__(config)
        self._console = Console(soft_wrap=True, highlight=False)
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, rate="")

    def __enter__(self) -> "BarReporter":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(message, markup=False)

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        now = time.monotonic()
        self._began = self._began or (now, progress.step)
        rate = (progress.step - self._began[1]) / max(now - self._began[0], 1e-9)
        self._bar.update(
            self._task,
            total=progress.blocks,
            completed=progress.block,
            rate=f"{rate:,.0f} steps/s" if rate else "",
        )
        self._bar.below = curves(self._config, progress, "\n")


@contextmanager
def reporter_for(config: SweepConfig) -> Iterator[Reporter]:
    """The reporter that fits where standard output goes."""
    if sys.stdout.isatty():
        with BarReporter(config) as reporter:
            yield reporter
    else:
        yield PlainReporter(config)


def headline(progress: Progress, rate: float) -> str:
    """How far it is: step, share, rate and time left."""
    share = progress.block / progress.blocks
    line = f"step {progress.step:,}  {share:4.0%}"
    if rate > 0:
        left = progress.step * (1 / share - 1) / rate
        line += f"  {rate:,.0f} steps/s  {left:,.0f} s left"
    return line


def curves(config: SweepConfig, progress: Progress, separator: str = "  ") -> str:
    """Training loss and dev accuracy of each length, the mean over its seeds that still train."""
    shape = (len(config.lengths), -1)
    going = ~progress.diverged.reshape(shape)
    parts = []
    for row, length in enumerate(config.lengths):
        loss, accuracy = (
            values.reshape(shape)[row][going[row]]
            for values in (progress.train_loss, progress.dev_accuracy)
        )
        text = f"loss {np.mean(loss):.3f} dev {np.mean(accuracy):.2f}" if len(loss) else "diverged"
        parts.append(f"L={length}: {text}")
    return separator.join(parts)
