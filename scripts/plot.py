"""Draw the figures of a run again, or of several runs side by side, without training.

    python scripts/plot.py RUN [RUN ...]

A folder of variants stands for all of its runs. A run that is still going on is drawn as it stood
at its newest checkpoint.
"""

from srn_jax.cli.commands import plot as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
