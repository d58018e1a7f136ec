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

    A helper draws its share of a finished run, whose files it reads; one that fails costs time and
    no figure. It has loaded Matplotlib; where that is still to be done here, it gets two thirds.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    every = 2 if "matplotlib" in sys.modules else 3
    if process is None or not run.info.get("finished"):
        process, every = None, 1
    else:
        wanted = {} if look is None else dataclasses.asdict(look)
        job = {"folder": str(folder), "info": run.info, "look": wanted, "every": every}
        with suppress(OSError):  # it has died
            print(json.dumps(job), file=process.stdin, flush=True)
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import Look

    look = look or Look()
    names = [*figures_of(run, look)]
    own, theirs = shares(names, every)
    draw(folder, run, look, own)
    if process is not None and process.stdout and process.stdout.readline() != DONE:
        draw(folder, run, look, theirs)
    return [folder / "figures" / f"{name}.{kind}" for name in names for kind in look.formats]


def shares(names: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    """What a process that asks a helper draws itself, one of so many, and what the helper does."""
    own = [*names[::every]]
    return own, [name for name in names if name not in own]


def draw(folder: Path, run: Run, look: "Look", names: Sequence[str]) -> None:
    """Write some of a run's figures."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import save_figure

    figures = figures_of(run, look)
    for name in names:
        save_figure(figures[name](), folder / "figures" / name, look)


def help_to_draw() -> None:
    """What a helper does: get ready, and draw what comes in, a line of JSON each time."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import Look

    with Look().axes(2, 1) as (figure, _):
        for kind in ("pdf", "png"):  # loads the fonts
            figure.savefig(io.BytesIO(), format=kind)
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        run = Run(read_results(folder), read_histories(folder), job["info"])
        look = Look(**job["look"])
        look = dataclasses.replace(look, formats=tuple(look.formats))  # JSON knows lists alone
        draw(folder, run, look, shares([*figures_of(run, look)], job["every"])[1])
        print(end=DONE, flush=True)
