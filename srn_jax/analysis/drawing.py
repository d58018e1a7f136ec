"""The files of a run's figures, drawn by two processes, because Matplotlib works on one core."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from srn_jax.analysis.results import Run, read_histories, read_results

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

HELP = "from srn_jax.analysis import drawing; drawing.help_to_draw()"
DONE = "done\n"
Helper = subprocess.Popen[str]


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
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def save_figures(
    folder: Path, run: Run, look: "Look | None" = None, process: Helper | None = None
) -> list[Path]:
    """Write all figures of a run into `folder/figures/`; returns their paths.

    A helper draws every second one of a finished run, whose files it reads; one that fails costs
    time and no figure.
    """
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import Look

    look = look or Look()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    names = [*figures_of(run, look)]
    theirs = names[1::2] if process is not None and run.info.get("finished") else []
    if process is not None and theirs:
        wanted = {"folder": str(folder), "info": run.info, "look": dataclasses.asdict(look)}
        with suppress(OSError):  # it has died
            print(json.dumps({**wanted, "names": theirs}), file=process.stdin, flush=True)
    draw(folder, run, look, [name for name in names if name not in theirs])
    if process is not None and theirs and process.stdout and process.stdout.readline() != DONE:
        draw(folder, run, look, theirs)
    return [folder / "figures" / f"{name}.{kind}" for name in names for kind in look.formats]


def draw(folder: Path, run: Run, look: "Look", names: Sequence[str]) -> None:
    """Write some of a run's figures."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import save_figure

    figures = figures_of(run, look)
    for name in names:
        save_figure(figures[name](), folder / "figures" / name, look)


def help_to_draw() -> None:
    """What a helper does: get ready, and draw what comes in, a line of JSON each time."""
    from srn_jax.analysis.look import Look

    with Look().axes(2, 1) as (figure, _):
        for kind in ("pdf", "png"):  # loads the fonts
            figure.savefig(io.BytesIO(), format=kind)
    for line in sys.stdin:
        wanted = json.loads(line)
        folder = Path(wanted["folder"])
        run = Run(read_results(folder), read_histories(folder), wanted["info"])
        look = Look(**{**wanted["look"], "formats": tuple(wanted["look"]["formats"])})
        draw(folder, run, look, wanted["names"])
        print(end=DONE, flush=True)
