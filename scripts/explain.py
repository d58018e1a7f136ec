"""Explain why the networks of a run forget: gradients, Jacobians, and what their states still hold.

python scripts/explain.py RUN                               # into RUN/explanation/
python scripts/explain.py RUN --gates "6 7 0 0 1 0 0 0 0 0"  # and the gates along a sequence
"""

from pathlib import Path

from srn_jax.cli import options as cli
from srn_jax.config import between
from srn_jax.runs.folder import runs_in


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    number = cli.number_of(int)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder, or one of variants")
    parser.add_argument("--lengths", nargs="+", type=number, metavar="L", help="only these [all]")
    parser.add_argument(
        "--threshold",
        type=cli.number_of(float),
        default=0.5,
        metavar="X",
        help="test accuracy above which a network is a solver [0.5]",
    )
    parser.add_argument("--gates", metavar="TOKENS", help='draw the gates along "3 4 0 0 0"')
    parser.add_argument("--seed", type=number, metavar="S", help="whose gates [the first]")
    parser.add_argument(
        "--out", type=cli.path, metavar="DIR", help="where it goes [RUN/explanation]"
    )
    cli.add_options(parser, "platform")
    options = parser.parse_args(arguments)
    between(0, 1)("--threshold", options.threshold)
    runs = runs_in(Path(options.run))
    cli.start_platform(options)
    from srn_jax.cli.explain import explain

    for run in runs:
        folder = Path(options.out or options.run)
        folder = folder / run.name if len(runs) > 1 else folder
        folder = folder if options.out else run / "explanation"
        paths = explain(run, folder, options)
        print("written:", *paths, sep="\n  ")


if __name__ == "__main__":
    cli.run_script(main)
