"""Training from Python: `srn_jax.train`, `resume`, `atlas`, `load_run` and `compare`."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srn_jax.arguments import How, configs_of, grown, how_of, with_presets
from srn_jax.config import SweepConfig, check
from srn_jax.errors import UserError, shown
from srn_jax.places import default_folder, drawing_in, path_from, point_to_newest, run_folder
from srn_jax.runs.folder import holds_run, read_configs, read_run
from srn_jax.runs.settings import is_nameless, table_of

if TYPE_CHECKING:
    import pandas as pd

    from srn_jax.analysis.look import Look
    from srn_jax.run import Run

TRAINING = threading.Lock()  # held while a run is trained


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, by `signal`, and has saved what it had; the same call goes on."""

    def __init__(self, signal: int, folder: Path | None):
        super().__init__("stopped and saved, the same call goes on")
        self.signal, self.folder = signal, folder


def train(
    lengths: int | str | Iterable[int] | None = None,
    seeds: int | Iterable[int] | None = None,
    *,
    folder: str | Path | bool | None = None,
    data: str | Path | None = None,
    probes: Any = None,
    every_loss: bool = False,
    section: str | None = None,
    quick: bool = False,
    textbook: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> "Run":
    """Train all lengths and seeds at once, or what is left of it, and show how far it is.

    Args:
        lengths: of the sequences; None takes all that `data` has, or the textbook's 5 to 35; "any"
            trains one network on the sequences of all lengths in `data`.
        seeds: how many for each length, or which; None for 8.
        folder: of the run, where it can be continued; True for one of its own under `runs/`; None
            keeps the run in memory, until `run.save`.
        data: a folder with `<length>/{train,dev,test}.txt`; None draws data for each seed.
        probes: what is recorded at every step beside the loss, such as "gradient-norm".
        every_loss: keep the training loss of every step, not of every 100th.
        section: settings of a section of the textbook, where no others are given: "6.1", ...
        quick: two lengths, four seeds, 40 epochs, where no others are given.
        textbook: one seed on the textbook's own files, with the lines that its program prints.
        overwrite: whether another run that the folder holds may be lost.
        **settings: of the experiment, by the names of `srn_jax.ExperimentConfig`:
            `cell="lstm"`, `hidden_size=64`, `learning_rate=[1e-3, 3e-3]`, ... Of several values,
            each combination is a variant. `task`, `cell`, `optimizer`, `learning_rate` (a schedule)
            and `probes` may be objects. And `platform`, `chunk`, ... of `srn_jax.How`.

    Raises:
        UserError: for settings that cannot be, or a folder with something else in it.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    given = {"lengths": lengths, "seeds": seeds, "data": data, "probes": probes}
    given = {name: value for name, value in given.items() if value is not None} | settings
    switches = {"every_loss": every_loss, "quick": quick, "overwrite": overwrite}
    for name, value in (switches | {"textbook": textbook}).items():
        check(name, value, bool)
    with alone():
        place = None if folder is None or isinstance(folder, bool) else path_from("folder", folder)
        how = how_of(given, "train", {**given, "section": section, "folder": place, **switches})
        chosen = with_presets(given, section, quick, textbook)
        configs = configs_of(every_loss=every_loss, **chosen)
        if folder is True:
            place, more = default_folder(configs)
            if more and not overwrite:
                configs = read_configs(place, objects=chosen)
        return _train(configs, place, how, overwrite, textbook)


def resume(
    folder: str | Path,
    *,
    lengths: int | Iterable[int] | None = None,
    seeds: int | Iterable[int] | None = None,
    trust_code: bool = False,
    textbook: bool = False,
    objects: Mapping[str, Any] | None = None,
    **more: Any,
) -> "Run":
    """Go on with a run, or add lengths, seeds or variants to it; what it has stays as it is.

    Args:
        folder: of the run.
        lengths: that it shall have as well.
        seeds: how many it shall have for each length, or which as well.
        trust_code: run the Python files that the folder holds, though their originals are gone.
        textbook: print the lines that the textbook's program prints.
        objects: what the run was made of and no file holds, by the names of settings.
        **more: values of settings that shall be compared as well: `cell="gru"`. And what
            `srn_jax.How` has.

    Raises:
        UserError, KeyboardInterrupt: as `train`.
    """
    with alone():
        path = run_folder(folder)
        told = {"folder": path, "lengths": lengths, "seeds": seeds, **more}
        how = how_of(more, "resume", told)
        configs = read_configs(path, objects={**more, **(objects or {})}, trust_code=trust_code)
        return _train(grown(configs, lengths, seeds, more), path, how, False, textbook)


def atlas(
    folder: str | Path,
    cells: Iterable[Any] = (),
    tasks: Iterable[str] | None = None,
    look: "Look | None" = None,
    **settings: Any,
) -> "pd.DataFrame":
    """Train every cell on every task, or what is left of it, and write one figure and one table.

    Args:
        folder: with a run for each task, which stays as it is and gets what it lacks.
        cells: that shall be added to it, the user's own among them; a new one begins with ours.
        tasks: of `analysis.atlas.PLAN`; None for all.
        look: of the figure.
        **settings: in place of those in `PLAN`, as `train` and `resume` take them.

    Returns:
        A row for each task, measure and cell, see `analysis.atlas.atlas_table`.
    """
    from srn_jax.analysis.atlas import CELLS, PLAN, atlas_table, write_atlas
    from srn_jax.analysis.look import DEFAULT_LOOK

    where, records, added = path_from("folder", folder), {}, list(cells)
    chosen = [*PLAN] if tasks is None else list(tasks)
    if unknown := [task for task in chosen if task not in PLAN]:
        raise UserError(f"`task` must be of {', '.join(PLAN)}, got {shown(unknown[0])}")
    for task in chosen:
        if (where / task / "run.json").exists():
            more: dict[str, Any] = {"cell": added} if added else {}
            run = resume(where / task, **more, **settings)
        else:
            every = list(dict.fromkeys([*CELLS, *added]))
            run = train(folder=where / task, task=task, cell=every, **PLAN[task] | settings)
        records[task] = run.stored.record
        write_atlas(records, where, look or DEFAULT_LOOK)
    return atlas_table(records)


def load_run(
    folder: str | Path, *, trust_code: bool = False, platform: str = "auto", **objects: Any
) -> "Run":
    """A run out of its folder; of one that has not ended, as of its newest checkpoints.

    Args:
        folder: of the run.
        trust_code: run the Python files that the folder holds, though their originals are gone.
        platform: where its networks shall run; see `srn_jax.How`.
        **objects: what the run was made of and no file holds, by the names of settings:
            `cell=Leaky`.

    Raises:
        UserError: if there is nothing to read, or an object is missing or another.
    """
    check("trust_code", trust_code, bool)
    how = How(platform)
    path = run_folder(folder).absolute()  # whatever the working directory becomes
    if not read_run(path)["finished"]:
        import_module("srn_jax.runs.devices").start(how.platform)
    from srn_jax.run import Run
    from srn_jax.runs.networks import open_run

    run = Run(open_run(path, objects=objects, trust_code=trust_code), how.platform)
    run.results  # noqa: B018  (what is wrong with it should show now)
    return run


def compare(
    runs: Mapping[str, Any] | Iterable[Any],
    baseline: str | None = None,
    folder: str | Path | None = None,
    look: "Look | None" = None,
) -> "pd.DataFrame":
    """Compare runs, seed by seed.

    Args:
        runs: or their folders, by the names under which they are shown, or a list of them.
        baseline: the name of the run that others are compared with; None for the first.
        folder: where figures, tables and a page are written; None writes nothing.
        look: of the figures.

    Returns:
        A row for each run and length: means, differences and their intervals.

    Raises:
        UserError: for no runs, names that cannot be shown, or no such baseline.
    """
    return comparison_of(runs, baseline, folder, look)[0].frame


def comparison_of(
    runs: Any, baseline: str | None = None, folder: Any = None, look: Any = None
) -> tuple[Any, list[Path]]:
    """The comparison that `compare` is about, and the files that it wrote."""
    from srn_jax.analysis.look import DEFAULT_LOOK
    from srn_jax.analysis.report import comparison
    from srn_jax.run import Run

    if isinstance(runs, str | os.PathLike | Run) or not isinstance(runs, Iterable):
        raise UserError(f"`runs` must be several runs, or by their names, got {shown(runs)}")
    named = dict(runs) if isinstance(runs, Mapping) else _named(list(runs))
    if not named:
        raise UserError("there is no run to compare, give at least one")
    for name in named:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UserError(f"the name of a run must be one line of text, got {shown(name)}")
    if baseline is not None and baseline not in named:
        raise UserError(f"`baseline` must be one of {', '.join(named)}, got {shown(baseline)}")
    loaded = {name: one if isinstance(one, Run) else load_run(one) for name, one in named.items()}
    found = comparison({name: run.stored.record for name, run in loaded.items()}, baseline)
    if folder is None:
        return found, []
    with drawing_in(path_from("folder", folder)):
        return found, found.write(Path(folder), look or DEFAULT_LOOK)


def _named(runs: list[Any]) -> dict[str, Any]:
    # Runs by the last part of their folders, or all of it where that is not enough.
    paths = [run_folder(getattr(run, "folder", run) or "in memory") for run in runs]
    real = [path.resolve() for path in paths]
    if twice := [str(path) for path, own in zip(paths, real, strict=True) if real.count(own) > 1]:
        raise UserError(f"{twice[0]} is given more than once, expected different runs")
    short = [path.name for path in real]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    return dict(zip(names, runs, strict=True))


@contextmanager
def alone() -> Iterator[None]:
    """Let one run train at a time; raises `UserError` inside of another, or beside it."""
    if not TRAINING.acquire(blocking=False):
        raise UserError(
            "a run is being trained in this process already: wait until it has ended (a file of "
            'yours that trains when it is loaded needs `if __name__ == "__main__":`)'
        )
    try:
        yield
    finally:
        TRAINING.release()


def _train(
    configs: list[SweepConfig], folder: Path | None, how: How, overwrite: bool, textbook: bool
) -> "Run":
    # Train variants, or what is left of them, and write the report; the caller is `alone`.
    from srn_jax.phases import Phases
    from srn_jax.runs import devices

    phases = Phases()
    if folder is not None:
        holds_run(folder, overwrite)  # what is wrong with it should show before JAX starts
    with phases("devices"):
        devices.start(how.platform, how.cpu_devices)
    with phases("imports"):
        import jax

        from srn_jax.runs.progress import closing_lines, reporter_for
        from srn_jax.runs.train import Interrupted, RunOptions, train_run
        from srn_jax.runs.trial import try_out
    for config in configs:
        try_out(config, how.kernel)
    first = jax.process_index() == 0
    if folder is not None and first:
        point_to_newest(folder)
    drawing = threading.Thread(target=import_module, args=["srn_jax.run"])
    drawing.start()  # beside the first compilation: what draws takes a second to load
    options = RunOptions(overwrite, how.checkpoint_every, how.chunk, how.kernel, how.command)
    table = table_of(configs)
    told = [pair for one in table["variants"] for pair in one.items()]
    told += [("probes", probe) for probe in table["probes"]]
    names = dict.fromkeys(f"{name}={value}" for name, value in told if is_nameless(value))
    with reporter_for(textbook, first) as reporter:
        if folder is not None and names:
            reporter.say(f"in no file, so load_run and resume need it again: {', '.join(names)}")
        try:
            stored = train_run(configs, folder, reporter, options, phases)
        except Interrupted as stop:
            raise Stopped(stop.signal, folder) from None
        finally:
            drawing.join()
    from srn_jax.run import Run

    run = Run(stored, how.platform)
    if folder is not None and first:
        run.report(phases=phases)
        stored.keep_phases()
    for line in closing_lines(stored.record) if textbook and first else ():
        reporter.say(line)
    return run
