"""The files of a run's figures, drawn by two processes, because Matplotlib works on one core."""

import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from srn_jax.analysis.results import Run

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer)"
HELP = f"{START}; from srn_jax.analysis import drawing; drawing.help_to_draw()"
DONE = b"1"
Helper = subprocess.Popen[bytes]


@contextmanager
def helper(wanted: bool = True) -> Iterator[Helper | None]:
    """A process that loads Matplotlib at once, while others compute, and draws when it is asked.

    It ends when its owner does, however that ends; None where there is no second core for it.
    """
    if not wanted or os.cpu_count() == 1:
        yield None
        return
    process = subprocess.Popen(
        [sys.executable, "-c", HELP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
    )
    try:
        ask(process, sys.path)
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: Helper, question: object) -> None:
    """Send something to a helper, which may have died."""
    assert process.stdin is not None
    with suppress(OSError):
        pickle.dump(question, process.stdin)
        process.stdin.flush()


def save_figures(
    folder: Path, run: Run, look: "Look | None" = None, process: Helper | None = None
) -> list[Path]:
    """Write all figures of a run into `folder/figures/`; returns their paths.

    A helper draws every second one; one that fails costs time and no figure.
    """
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import Look

    look = look or Look()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    names = [*figures_of(run, look)]
    if process is None:
        draw(folder, run, look, names)
    else:
        ask(process, (folder, run, look, names[1::2]))
        draw(folder, run, look, names[::2])
        assert process.stdout is not None
        if process.stdout.read(1) != DONE:
            draw(folder, run, look, names[1::2])
    return [folder / "figures" / f"{name}.{kind}" for name in names for kind in look.formats]


def draw(folder: Path, run: Run, look: "Look", names: Sequence[str]) -> None:
    """Write some of a run's figures."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import save_figure

    figures, collecting = figures_of(run, look), gc.isenabled()
    gc.disable()  # figures are full of cycles; to look for them takes a tenth of the time
    try:
        for name in names:
            save_figure(figures[name](), folder / "figures" / name, look)
    finally:
        if collecting:
            gc.enable()


def help_to_draw() -> None:
    """What a helper does: get ready, and draw what comes in."""
    from srn_jax.analysis.look import Look

    with Look().axes(2, 1) as (figure, _):
        for kind in ("pdf", "png"):  # loads the fonts
            figure.savefig(io.BytesIO(), format=kind)
    with suppress(EOFError):  # its owner has gone
        while True:
            draw(*pickle.load(sys.stdin.buffer))
            os.write(1, DONE)
