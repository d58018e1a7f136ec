"""Train all lengths and many seeds at once, and draw the memory curve."""

from srn_jax.cli.commands import sweep as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
