"""The files of a run's figures, drawn by several processes: Matplotlib works on one core."""

import contextlib
import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srn_jax.analysis.results import Run

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

MOST_HELPERS = 3
START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer)"
HELP = f"{START}; from srn_jax.analysis import drawing; drawing.help_to_draw()"


class Helpers:
    """Processes that load Matplotlib at once, while others compute, and draw when they are asked.

    They go when their owner does, however it ends; one that fails costs time and no figure.
    """

    def __init__(self, number: int | None = None):
        if number is None:
            number = min(MOST_HELPERS, (os.cpu_count() or 1) - 1)
        self.processes = [self.start() for _ in range(number)]

    @staticmethod
    def start() -> subprocess.Popen[bytes]:
        """A process that waits for figures to draw, out of reach of the terminal's Ctrl-C."""
        process = subprocess.Popen(
            [sys.executable, "-c", HELP],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):
            send(process, sys.path)
        return process

    def __enter__(self) -> "Helpers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


def send(process: subprocess.Popen[bytes], value: object) -> None:
    """Give a value to a helper; raises `OSError` if it is no longer there."""
    assert process.stdin is not None
    pickle.dump(value, process.stdin)
    process.stdin.flush()


def save_figures(
    folder: Path, run: Run, look: "Look | None" = None, helpers: Helpers | None = None
) -> list[Path]:
    """Write all figures of a run into `folder/figures/`, named as in the textbook; their paths."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import Look

    look = look or Look()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    names = [*figures_of(run, look)]
    processes = helpers.processes if helpers else []
    shares: list[list[str]] = [[] for _ in range(len(processes) + 1)]
    for name in names:
        weight = [sum(3 if n == "overview" else 1 for n in share) for share in shares]
        shares[weight.index(min(weight))].append(name)
    for process, share in zip(processes, shares[1:], strict=True):
        with contextlib.suppress(OSError):  # it has died
            send(process, (folder, run, look, share))
    draw(folder, run, look, shares[0])
    for process, share in zip(processes, shares[1:], strict=True):
        if process.wait():
            draw(folder, run, look, share)
    return [folder / "figures" / f"{name}.{kind}" for name in names for kind in look.formats]


def draw(folder: Path, run: Run, look: "Look", names: Sequence[str]) -> None:
    """Write some of a run's figures."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import save_figure

    figures = figures_of(run, look)
    for name in names:
        save_figure(figures[name](), folder / "figures" / name, look)


def help_to_draw() -> None:
    """What a helper does: get ready, and draw what comes in."""
    gc.disable()  # it lives for a second
    from srn_jax.analysis.look import Look

    figure = Look().figure(2, 2)
    figure.add_subplot()
    for kind in ("pdf", "png"):  # loads the fonts
        figure.savefig(io.BytesIO(), format=kind)
    with contextlib.suppress(EOFError):  # there is nothing to draw
        draw(*pickle.load(sys.stdin.buffer))
