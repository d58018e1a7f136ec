"""Draw the figures of a run again, or of several runs side by side, without training.

    python scripts/plot.py RUN [RUN ...]

A run that is still going on is drawn as it stood at its newest checkpoint.
"""

from pathlib import Path

from srn_jax import cli
from srn_jax.config import UserError


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=cli.path, metavar="RUN", help="run folders")
    parser.add_argument(
        "--out", type=cli.path, metavar="DIR", help="where a comparison goes [comparison/]"
    )
    cli.add_platform_options(parser)
    options = parser.parse_args(arguments)
    runs = [Path(run) for run in options.runs]
    if len(runs) == 1 and options.out is not None:
        raise UserError("--out is for a comparison; the figures of one run go into its folder")
    cli.start_platform(options)
    from srn_jax import study

    named = {}
    for run, name in zip(runs, study.short_names(runs), strict=True):
        results, histories, info = study.load_run(run)
        named[name] = results
        if len(runs) == 1:
            paths = study.publish(run, results, histories, info)
            print("written:", *paths, sep="\n  ")
    if len(runs) > 1:
        study.publish_comparison(Path(options.out or "comparison"), named)


if __name__ == "__main__":
    cli.run_script(main)
