"""What a run or several leave for a reader: figures, tables and reports; JAX stays asleep."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srn_jax.analysis import report
from srn_jax.analysis.results import (
    HISTORIES_FILE,
    RESULTS_FILE,
    Histories,
    Results,
    Run,
    read_histories,
    read_results,
    write_atomically,
    write_log,
)
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError, warn
from srn_jax.runs import folder as run_folder

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look  # which loads Matplotlib

COMPARISON = "comparison"


def publish(folder: Path, run: Run, look: "Look | None" = None) -> list[Path]:
    """Draw the figures and write the report and the log of a run; returns the files and folders.

    A figure that cannot be drawn costs neither the results nor the report.
    """
    pictures: list[Path] = []

    def draw() -> None:
        from srn_jax.analysis.figures import save_figures
        from srn_jax.analysis.look import Look

        pictures.extend(save_figures(folder, run, look or Look()))

    attempt("the figures could not be drawn", draw)
    paths = [folder / "figures"] if pictures else []
    shown = [path.relative_to(folder) for path in pictures if path.suffix == ".png"]
    text = report.run_report(run, shown)
    write_atomically(folder / run_folder.REPORT_FILE, text.encode())
    paths.append(folder / run_folder.REPORT_FILE)
    if run.histories is not None:
        paths.append(write_log(run.histories, folder))
    return paths


def attempt(complaint: str, action: Callable[[], None]) -> None:
    """Do what must not cost more than itself when it fails; say so if it does."""
    try:
        action()
    except UserError:  # something that the user asked for cannot be had
        raise
    except Exception as error:  # Matplotlib and file systems fail in many ways
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: {complaint} ({reason}); the results are safe", flush=True)


def publish_comparison(
    folder: Path, runs: Mapping[str, Run], baseline: str | None = None, look: "Look | None" = None
) -> None:
    """Print, draw and write the comparison of several runs."""
    run_folder.check_place(folder)
    table = report.comparison_table(runs, baseline)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{COMPARISON}.md"]

    def draw() -> None:
        from srn_jax.analysis.figures import comparison_figure, pair_figure
        from srn_jax.analysis.look import Look, save_figure

        (folder / "figures").mkdir(exist_ok=True)
        figures = {COMPARISON: comparison_figure}
        if [run.settings["cell"] for run in runs.values()] == ["srn", "lstm"]:
            figures["6.12"] = pair_figure
        for name, figure in figures.items():
            drawn = figure(runs, look or Look())
            paths.extend(save_figure(drawn, folder / "figures" / name, look or Look()))

    attempt("the comparison could not be drawn", draw)
    shown = [path.relative_to(folder) for path in paths[1:]]
    text = report.comparison_report(runs, shown, baseline)
    write_atomically(paths[0], text.encode())
    print(f"{table}\n\nwritten: {', '.join(map(str, paths))}", flush=True)


def load_run(folder: Path) -> Run:
    """Results, histories and run file of a run folder, also of a run that is still going on.

    Of a run that has not ended, they are those of its newest checkpoint, which takes JAX to read.

    Raises:
        UserError: if there is nothing to read yet.
    """
    info = run_folder.read_run(folder)
    config = run_folder.config_of(info["settings"])
    if info["finished"]:
        results, histories = read_results(folder), read_histories(folder)
        check_experiments(folder / RESULTS_FILE, results, config)
        check_experiments(folder / HISTORIES_FILE, histories, config)
        return Run(results, histories, info)
    from srn_jax.runs.checkpoint import join_state, restore

    newest = restore(folder, warn=warn)
    if newest is None:
        raise UserError(f"{folder}: this run has no checkpoint yet, wait for its first")
    run_folder.check_settings(folder, newest.settings, info["settings"])
    from srn_jax.ensemble.sweep import Sweep
    from srn_jax.runs.outcome import collect

    run_folder.check_data(config, info["settings"].get("data_sha256"))
    sweep = Sweep(config)
    like = sweep.gather(sweep.state)
    sweep.state = sweep.scatter(join_state(newest.items, like))
    return Run(*collect(sweep), info)


def check_experiments(path: Path, table: Results | Histories, config: SweepConfig) -> None:
    """Raise `UserError` if a file's experiments are not exactly those of its sweep."""
    lengths, seeds = zip(*config.experiments, strict=True)
    if (table.length.tolist(), table.seed.tolist()) != ([*lengths], [*seeds]):
        raise UserError(f"{path}: its experiments are not those of the run")


def short_names(runs: Sequence[Path]) -> list[str]:
    """Names that tell runs apart: the last part of each path, or all of it where two share that."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
