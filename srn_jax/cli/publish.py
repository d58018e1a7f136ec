"""What a run or several leave for a reader: figures, tables and reports, without JAX."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srn_jax.analysis import report
from srn_jax.analysis.comparison import compare
from srn_jax.analysis.drawing import Helper, save_figures
from srn_jax.analysis.page import html_page
from srn_jax.analysis.results import PARTIAL, RUN_FILE, Run, write_atomically, write_log
from srn_jax.analysis.summary import summarise
from srn_jax.analysis.tables import Cells, csv_table, latex_table
from srn_jax.analysis.words import check_name
from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder

if TYPE_CHECKING:
    from srn_jax.analysis.look import Look  # which loads Matplotlib

COMPARISON = "comparison"


def publish(
    folder: Path,
    run: Run,
    look: "Look | None" = None,
    helpers: Sequence[Helper] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Draw the figures and write tables, report and log of a run; returns the files and folders.

    A figure that cannot be drawn costs neither the results nor the report. See `save_figures` for
    the helpers, and for what this process does meanwhile.
    """
    pictures: list[Path] = []
    attempt(
        "the figures could not be drawn",
        lambda: pictures.extend(save_figures(folder, run, look, helpers, meanwhile)),
    )
    gates = sorted((folder / "figures").glob("6.13_*"))  # which take JAX to draw
    pictures += [path for path in gates if path.suffix != PARTIAL]
    if gates and look is not None:
        from srn_jax.analysis.look import DEFAULT_LOOK  # which is loaded where there is a look

        if look != DEFAULT_LOOK:
            print("6.13 stays as it is; explain.py with --gates draws it with these options")
    paths = [folder / "figures"] if pictures else []
    cells, rows = report.accuracy_cells(run.results), map(vars, summarise(run.results))
    paths += write_tables(folder / run_folder.TABLES_FOLDER / "accuracy", cells, [*rows])
    text = report.run_report(run, [path.relative_to(folder) for path in one_of_each(pictures)])
    paths += write_report(folder / run_folder.REPORT_FILE, text)
    if run.histories is not None:
        paths.append(write_log(run.histories, folder))
    return paths


def one_of_each(pictures: Sequence[Path]) -> list[Path]:
    """One file of each figure for a report: PNG if there is one, SVG, or what there is."""
    suffixes = [".png", ".svg", ".pdf"]
    order = sorted(pictures, key=lambda path: suffixes.index(path.suffix), reverse=True)
    best = {path.with_suffix(""): path for path in order}
    return [best[stem] for stem in dict.fromkeys(path.with_suffix("") for path in pictures)]


def write_tables(stem: Path, cells: Cells, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write a table as LaTeX, as it is shown, and as CSV, with everything in full precision."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {
        stem.with_suffix(".tex"): latex_table(cells),
        stem.with_suffix(".csv"): csv_table(rows),
    }
    for path, text in files.items():
        write_atomically(path, text.encode())
    return [*files]


def write_report(path: Path, text: str) -> list[Path]:
    """Write a report as Markdown, and beside it as one page of HTML with the figures inside."""
    write_atomically(path, text.encode())
    written, page = [path], path.with_suffix(".html")

    def write_page() -> None:
        write_atomically(page, html_page(text, path.parent).encode())
        written.append(page)

    attempt(f"{page} could not be written", write_page)
    return written


def attempt(complaint: str, action: Callable[[], None], asked: bool = True) -> None:
    """Do what must not cost more than itself when it fails; say so if it does.

    Raises `UserError` for something that the user has `asked` for and that cannot be had.
    """
    try:
        action()
    except Exception as error:  # Matplotlib and file systems fail in many ways
        if asked and isinstance(error, UserError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: {complaint} ({reason}); the results are safe", flush=True)


def publish_comparison(
    folder: Path, runs: Mapping[str, Run], baseline: str | None = None, look: "Look | None" = None
) -> None:
    """Print, draw and write the comparison of several runs."""
    run_folder.check_place(folder)
    if (folder / RUN_FILE).exists():
        raise UserError(f"{folder} is the folder of a run, choose another for a comparison (--out)")
    comparison = compare(runs, baseline)
    pictures: list[Path] = []

    def draw() -> None:
        from srn_jax.analysis.figures import comparison_figure, pair_figure
        from srn_jax.analysis.look import Look, save_figure

        wanted = look or Look()
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        figures = {COMPARISON: comparison_figure}
        if [run.settings["cell"] for run in runs.values()] == ["srn", "lstm"]:
            figures["6.12"] = pair_figure
        for name, figure in figures.items():
            pictures.extend(save_figure(figure(runs, wanted), folder / "figures" / name, wanted))

    run_folder.make_folder(folder)
    attempt("the comparison could not be drawn", draw)
    shown = [path.relative_to(folder) for path in one_of_each(pictures)]
    paths = [*write_report(folder / f"{COMPARISON}.md", comparison.report(shown)), *pictures]
    rows = [row.columns for row in comparison.rows]
    paths += write_tables(folder / COMPARISON, comparison.cells(), rows)
    names = ", ".join(str(path.relative_to(folder)) for path in paths)
    print(f"{comparison.table()}\n\nin {folder}: {names}", flush=True)


def load_run(folder: Path, start: Callable[[], None] = lambda: None) -> Run:
    """Results, histories and run file of a run folder, also of a run that is still going on.

    Of a run that has not ended, they are those of its newest checkpoint, which takes JAX to read;
    `start` starts it.

    Raises:
        UserError: if there is nothing to read yet.
    """
    info = run_folder.read_run(folder)
    if info["finished"]:
        return run_folder.read_finished(folder, info)
    start()
    from srn_jax.runs.restore import load_unfinished

    return load_unfinished(folder, info)


def names_of(folders: Sequence[Path], labels: Sequence[str] | None = None) -> list[str]:
    """Names that tell runs apart: labels, or the last part of each path, or all of it.

    Raises:
        UserError: if a run is given twice, or there is not one label for each that can be drawn.
    """
    for folder, times in Counter(folder.resolve() for folder in folders).items():
        if times > 1:
            raise UserError(f"{folder} is given more than once, expected different runs")
    if labels is not None:
        if len(labels) != len(folders) or len(set(labels)) < len(labels):
            raise UserError(
                f"--labels must be {len(folders)} different names, one for each run, "
                f"got {', '.join(labels)}"
            )
        for label in labels:
            check_name(label, "--labels")
        return [*labels]
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
