"""What a run shows while it goes on: a bar on a terminal or in a notebook, or plain lines."""

import html
import sys
import threading
import time
from importlib import import_module
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar

from srn_jax.analysis.records import Record, log_lines
from srn_jax.errors import warn

if TYPE_CHECKING:
    from srn_jax.runs.train import Progress

COMPILING = "compiling"  # which bars say themselves
SECONDS_BETWEEN_LINES = 5.0
WIDTH = 78
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
        """Show how far it is: step, share, rate, time left, and the curves so far."""
        now, share = time.monotonic(), progress.block / progress.blocks
        if self.began is None:
            self.began = (now, progress.step)
            # This process waits for the devices now; what saves a checkpoint takes a while to load.
            threading.Thread(target=import_module, args=["orbax.checkpoint"], daemon=True).start()
        rate = (progress.step - self.began[1]) / max(now - self.began[0], 1e-9)
        line = f"step {progress.step:,}  {share:4.0%}"
        if rate > 0:
            left = progress.step * (1 / share - 1) / rate
            line += f"  {rate:,.0f} steps/s  {left:,.0f} s left"
        self.show([line, *curves(progress)], share)

    def show(self, parts: list[str], share: float) -> None:
        """Print what there is to see, unless it did so a moment ago."""
        if (now := time.monotonic()) >= self._next_line or share == 1:
            self._next_line = now + SECONDS_BETWEEN_LINES
            text = fill("  ".join([parts[0], *(p.replace(" ", "\xa0") for p in parts[1:])]), WIDTH)
            self.say(text.replace("\n", "\n  ").replace("\xa0", " "))


class BarReporter(PlainReporter):
    """A bar on a terminal, and under it how far it is and the curves so far."""

    def __init__(self) -> None:
        super().__init__()
        self._live = Live(
            COMPILING, console=Console(soft_wrap=True, highlight=False), transient=True
        )

    def __enter__(self) -> "BarReporter":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar, which says itself that it is compiling."""
        if message != COMPILING:
            self._live.console.print(message, markup=False)

    def show(self, parts: list[str], share: float) -> None:
        """Move the bar."""
        self._live.update(Group(ProgressBar(1.0, share, width=40), "\n".join(parts)))


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

    def show(self, parts: list[str], share: float) -> None:
        """Redraw."""
        self._shown.update(self.page("\n".join(parts), f'value="{share}"'))

    def __exit__(self, *error: object) -> None:
        if self.began is None and error[0] is None:
            self._shown.update(self.page("nothing was left to train", 'value="1"'))


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
        """Nothing: what it would read are other processes' as well."""


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
