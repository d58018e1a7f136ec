"""Restore the networks of a run from its checkpoint and test them.

python scripts/evaluate.py RUN                          # the test accuracies of results.csv again
python scripts/evaluate.py RUN --lengths 5 --predict "3 4 0 0 0"
"""

from pathlib import Path

from srn_jax.cli import options as cli
from srn_jax.errors import UserError


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    number = cli.number_of(int)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder, finished or not")
    parser.add_argument("--lengths", nargs="+", type=number, metavar="L", help="only these [all]")
    parser.add_argument("--seeds", nargs="+", type=number, metavar="S", help="only these [all]")
    parser.add_argument(
        "--which", choices=("best", "last"), default="best", help="parameters to restore [best]"
    )
    parser.add_argument(
        "--data",
        type=cli.path,
        metavar="DIR",
        help="test on DIR/<length>/test.txt [the run's own data]",
    )
    parser.add_argument(
        "--predict", metavar="TOKENS", help='what the networks answer to a sequence like "3 4 0"'
    )
    cli.add_platform_options(parser)
    options = parser.parse_args(arguments)
    if options.predict is not None and options.data is not None:
        raise UserError("--predict needs no --data, give one of them")
    cli.start_platform(options)
    from srn_jax.cli.answers import print_accuracies, print_predictions
    from srn_jax.runs.restore import restore

    networks = restore(Path(options.run), options.lengths, options.seeds, options.which)
    if options.predict is not None:
        print_predictions(networks, options.predict)
    else:
        print_accuracies(networks, options.data)


if __name__ == "__main__":
    cli.run_script(main)
