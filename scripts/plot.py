"""Draw the figures of a run again, or of several runs side by side, without training.

    python scripts/plot.py RUN [RUN ...]

A folder of variants stands for all of its runs. A run that is still going on is drawn as it stood
at its newest checkpoint.
"""

from pathlib import Path

from srn_jax.cli import options as cli
from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=cli.path, metavar="RUN", help="run folders")
    parser.add_argument(
        "--out", type=cli.path, metavar="DIR", help="where a comparison goes [beside the first run]"
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="names for the runs")
    parser.add_argument("--baseline", metavar="NAME", help="the run to compare with [the first]")
    looks = parser.add_argument_group("look of the figures")
    looks.add_argument(
        "--width", type=cli.number_of(float), metavar="INCHES", help="with type to match"
    )
    looks.add_argument(
        "--format", nargs="+", metavar="KIND", help="pdf, png or svg, or several [pdf png]"
    )
    looks.add_argument("--title", metavar="WORDS", help="above every figure")
    looks.add_argument("--lang", default="en", metavar="LANG", help="of the labels: en or zh [en]")
    cli.add_platform_options(parser)
    parser.set_defaults(platform="cpu")  # the accelerator may be busy with the run itself
    options = parser.parse_args(arguments)
    given = [Path(folder) for folder in options.runs]
    folders = [run for folder in given for run in run_folder.runs_in(folder)]
    if len(folders) == 1 and (options.out or options.baseline or options.labels) is not None:
        raise UserError("--out, --labels and --baseline are for several runs, and this is one")
    from srn_jax.analysis.drawing import helper
    from srn_jax.analysis.look import Look
    from srn_jax.cli import publish

    look = Look(options.width, tuple(options.format or ("pdf", "png")), options.title, options.lang)
    names = publish.names_of(folders, options.labels)
    if not all(run_folder.read_run(folder)["finished"] for folder in folders):
        cli.start_platform(options)  # to read a checkpoint
    if len(folders) == 1:
        with helper() as process:
            paths = publish.publish(folders[0], publish.load_run(folders[0]), look, process)
        print("written:", *paths, sep="\n  ")
        return
    runs = {name: publish.load_run(folder) for name, folder in zip(names, folders, strict=True)}
    beside = given[0] if len(given) == 1 else given[0].parent / "comparison"
    publish.publish_comparison(Path(options.out or beside), runs, options.baseline, look)


if __name__ == "__main__":
    cli.run_script(main)
