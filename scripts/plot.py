"""Draw the figures of a run again, or of several side by side."""

from srn_jax.cli.commands import plot as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
