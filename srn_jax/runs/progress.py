"""What a run shows while it goes on: a bar on a terminal or in a notebook, or plain lines."""

import html
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.progress
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from srn_jax.analysis.records import Record, log_lines
from srn_jax.errors import warn

if TYPE_CHECKING:
    from srn_jax.runs.train import Progress

COMPILING = "compiling"  # which bars say themselves
SECONDS_BETWEEN_LINES = 5.0
WIDTH = 80
MOST_CURVES = 12  # lengths whose curves are shown


class PlainReporter:
    """Lines that can be read in a log file, the first at once and then one every few seconds."""

    def __init__(self) -> None:
        self.began: tuple[float, int] | None = None
        self._next_line = 0.0

    def __enter__(self) -> "PlainReporter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, message: str) -> None:
        """Print a line."""
        print(message, flush=True)

    def warn(self, message: str) -> None:
        """Print a line on standard error."""
        warn(message)

    def progress(self, progress: "Progress") -> None:
        """Print how far it is, unless it did so a moment ago."""
        rate, now = self.rate(progress), time.monotonic()
        if now >= self._next_line or progress.block == progress.blocks:
            self._next_line = now + SECONDS_BETWEEN_LINES
            parts = [part.replace(" ", "\xa0") for part in curves(progress)]
            lines = fill("  ".join([headline(progress, rate), *parts]), WIDTH - 2)
            self.say(lines.replace("\n", "\n  ").replace("\xa0", " "))

    def rate(self, progress: "Progress") -> float:
        """Steps a second since the first interval; 0 at the first."""
        now = time.monotonic()
        if self.began is None:
            self.began = (now, progress.step)
            # This process waits for the devices now; what saves a checkpoint takes a while to load.
            threading.Thread(target=import_module, args=["orbax.checkpoint"], daemon=True).start()
        return (progress.step - self.began[1]) / max(now - self.began[0], 1e-9)


class Bar(rich.progress.Progress):
    """A progress bar with lines of text under it."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, then the text."""
        yield from super().get_renderables()
        yield Text(self.below)


class BarReporter(PlainReporter):
    """A bar with rate and times, and the curves so far under it."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(soft_wrap=True, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[rate]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(COMPILING, total=None, rate="")

    def __enter__(self) -> "BarReporter":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar, which says itself that it is compiling."""
        if message != COMPILING:
            self._console.print(message, markup=False)

    def progress(self, progress: "Progress") -> None:
        """Move the bar."""
        rate, share = self.rate(progress), progress.block / progress.blocks
        self._bar.update(
            self._task,
            description="training",
            total=progress.blocks,
            completed=progress.block,
            rate=f"{share:4.0%}" + (f"  {rate:,.0f} steps/s" if rate else ""),
        )
        self._bar.below = "\n".join(curves(progress))


class NotebookReporter(PlainReporter):
    """A bar with the curves so far, redrawn in its place below a notebook's cell."""

    def __init__(self) -> None:
        super().__init__()
        from IPython.display import display

        self._shown: Any = display(self.page(COMPILING), display_id=True)

    def page(self, text: str, bar: str = "") -> Any:
        """A bar and text as HTML."""
        from IPython.display import HTML

        return HTML(f"<progress {bar}></progress><pre>{html.escape(text)}</pre>")

    def say(self, message: str) -> None:
        """Print a line; what is shown says itself that it is compiling."""
        if message != COMPILING:
            super().say(message)

    def progress(self, progress: "Progress") -> None:
        """Redraw."""
        lines = [headline(progress, self.rate(progress)), *curves(progress)]
        bar = f'value="{progress.block}" max="{progress.blocks}"'
        self._shown.update(self.page("\n".join(lines), bar))

    def __exit__(self, *error: object) -> None:
        if self.began is None and error[0] is None:
            self._shown.update(self.page("nothing was left to train", 'value="1" max="1"'))


class TextbookReporter(PlainReporter):
    """The lines that the textbook's program prints, of each length's first seed."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[int, int] = {}  # lines by experiment
        self._header = -1

    def progress(self, progress: "Progress") -> None:
        """Print the lines that are new."""
        histories = progress.histories()
        firsts = np.unique(histories.length, return_index=True)[1].tolist()
        for row in firsts:
            lines = log_lines(histories, row)
            new = lines[self._told.get(row, 0) :]
            if new and len(firsts) > 1 and self._header != row:
                self.say(f"== length {histories.length[row]}")
                self._header = row
            self._told[row] = len(lines)
            for line in new:
                self.say(line)


class SilentReporter(PlainReporter):
    """Nothing, of one of several processes that is not the first."""

    def say(self, message: str) -> None:
        """Nothing."""

    def progress(self, progress: "Progress") -> None:
        """Nothing."""


def reporter_for(textbook: bool = False, first: bool = True) -> PlainReporter:
    """The reporter that fits where the output goes; of several processes the first one talks."""
    if not first:
        return SilentReporter()
    if textbook:
        return TextbookReporter()
    ipython: Any = sys.modules.get("IPython")
    if "ipykernel" in sys.modules and ipython is not None and ipython.get_ipython() is not None:
        return NotebookReporter()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return BarReporter() if terminal and not Console().is_dumb_terminal else PlainReporter()


def headline(progress: "Progress", rate: float) -> str:
    """How far it is: step, share, rate and time left."""
    share = progress.block / progress.blocks
    line = f"step {progress.step:,}  {share:4.0%}"
    if rate > 0:
        left = progress.step * (1 / share - 1) / rate
        line += f"  {rate:,.0f} steps/s  {left:,.0f} s left"
    return line


def curves(progress: "Progress") -> list[str]:
    """Training loss and dev accuracy of each length, the mean over what still trains of it."""
    parts = []
    lengths = np.unique(progress.length)
    for length in lengths[:MOST_CURVES]:
        going = (progress.length == length) & ~progress.diverged
        loss, accuracy = progress.train_loss[going], progress.dev_accuracy[going]
        text = f"loss {np.mean(loss):.2f} dev {np.mean(accuracy):.2f}" if len(loss) else "diverged"
        parts.append(f"L={length}: {text}")
    return parts + (["..."] if len(lengths) > MOST_CURVES else [])


def closing_lines(record: Record) -> list[str]:
    """What the textbook's program prints at its end, of each length's first seed."""
    return [
        f"[{variant.settings['cell'].upper()}] length:{row.length}, "
        f"dev_score: {row.best_dev_accuracy}, test_score: {row.test_accuracy: .5f}"
        for variant in record.variants
        for row in variant.results.drop_duplicates("length").itertuples()
    ]
