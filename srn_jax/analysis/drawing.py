"""The files of a run's figures, drawn by several processes: Matplotlib works on one core."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from srn_jax.analysis.results import Run, read_histories, read_results

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look

HELP = "from srn_jax.analysis import drawing; drawing.help_to_draw()"
Helper = subprocess.Popen[str]
Drawn = tuple[int, list[str]]  # a figure's place among all of a run, and the names of its files
COST = {"overview": 3.5}  # of drawing it, where any other's is 1


@contextmanager
def start_helpers(number: int) -> Iterator[list[Helper]]:
    """Processes that load Matplotlib at once, while others compute, and draw when they are asked.

    They end when their owner does, however that ends; none where there is no second core for them.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HELP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )
        for _ in range(number if os.cpu_count() != 1 else 0)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def save_figures(
    folder: Path,
    run: Run,
    look: "Look | None" = None,
    helpers: Sequence[Helper] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write all figures of a run into `folder/figures/`; returns their paths.

    Of a finished run, whose files helpers can read, each draws a share; so does this process where
    it has loaded Matplotlib. A helper that fails costs time and no figure. `meanwhile` is what else
    this process has to do while helpers draw.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    if not run.info.get("finished"):
        helpers = ()
    here = int(not helpers or "matplotlib" in sys.modules)
    parts = here + len(helpers)
    job = {"folder": str(folder), "info": run.info, "parts": parts}
    job["look"] = {} if look is None else dataclasses.asdict(look)
    for part, helper in enumerate(helpers, here):
        with suppress(OSError):  # it has died
            print(json.dumps(job | {"part": part}), file=helper.stdin, flush=True)
    meanwhile()
    done, said = draw(folder, run, look, 0, parts) if here else [], ""
    for part, helper in enumerate(helpers, here):
        answer = helper.stdout.readline() if helper.stdout else ""
        if answer.endswith("\n"):  # or it has died, perhaps while it answered
            drawn, words = json.loads(answer)
        else:
            drawn, words = draw(folder, run, look, part, parts), ""
        done += drawn
        said = said or words
    if not here:  # all figures have the same to say, of letters that become boxes
        print(end=said, file=sys.stderr, flush=True)
    files = dict(done)
    return [folder / "figures" / name for place in sorted(files) for name in files[place]]


def draw(folder: Path, run: Run, look: "Look | None", part: int, parts: int) -> list[Drawn]:
    """Write one of so many parts, which take about as long, of a run's figures."""
    from srn_jax.analysis.figures import figures_of
    from srn_jax.analysis.look import Look, save_figure

    look, work, done = look or Look(), [0.0] * parts, []
    for place, (name, figure) in enumerate(figures_of(run, look).items()):
        least = work.index(min(work))
        work[least] += COST.get(name, 1)
        if least == part:
            paths = save_figure(figure(), folder / "figures" / name, look)
            done.append((place, [path.name for path in paths]))
    return done


def help_to_draw() -> None:
    """What a helper does: get ready, and draw what comes in, a line of JSON each time.

    Its answers are lines of JSON, too: the files of each figure, and what there was to say.
    """
    from srn_jax.analysis.look import Look

    with Look().axes(2, 1) as (figure, _):
        for kind in ("pdf", "png"):  # loads the fonts
            figure.savefig(io.BytesIO(), format=kind)
    for line in sys.stdin:
        job = json.loads(line)
        folder, look = Path(job["folder"]), Look(**job["look"])
        look = dataclasses.replace(look, formats=tuple(look.formats))  # JSON knows lists alone
        run = Run(read_results(folder), read_histories(folder), job["info"])
        with redirect_stderr(io.StringIO()) as said:
            drawn = draw(folder, run, look, job["part"], job["parts"])
        print(json.dumps([drawn, said.getvalue()]), flush=True)
