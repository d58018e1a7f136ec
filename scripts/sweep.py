"""Train all sequence lengths and many seeds at once and draw the memory curve.

python scripts/sweep.py --platform gpu --seeds 100
"""

import shlex

from srn_jax.cli import options as cli


def main(arguments: list[str]) -> None:
    parser = cli.Parser(__doc__)
    cli.add_platform_options(parser)
    cli.add_sweep_options(parser)
    cli.add_run_options(parser)
    cli.add_distributed_options(parser)
    options = parser.parse_args(arguments)
    cli.check_run_options(options)
    command = shlex.join(["python", "scripts/sweep.py", *arguments])
    cli.run_sweeps(options, command)


if __name__ == "__main__":
    cli.run_script(main)
