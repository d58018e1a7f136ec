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
        "--out", type=cli.path, metavar="DIR", help="where a comparison goes [comparison/]"
    )
    cli.add_platform_options(parser)
    parser.set_defaults(platform="cpu")  # the accelerator may be busy with the run itself
    options = parser.parse_args(arguments)
    given = [Path(folder) for folder in options.runs]
    runs = [run for folder in given for run in run_folder.runs_in(folder)]
    if len(runs) == 1 and options.out is not None:
        raise UserError("--out is for a comparison; the figures of one run go into its folder")
    cli.start_platform(options)
    from srn_jax.cli import study

    named = {}
    for run, name in zip(runs, study.short_names(runs), strict=True):
        results, histories, info = study.load_run(run)
        named[name] = results
        if len(runs) == 1:
            paths = study.publish(run, results, histories, info)
            print("written:", *paths, sep="\n  ")
    if len(runs) > 1:
        default = given[0] if len(given) == 1 else Path("comparison")
        study.publish_comparison(Path(options.out or default), named)


if __name__ == "__main__":
    cli.run_script(main)
