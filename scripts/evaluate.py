"""Restore the networks of a run from its checkpoint and test them."""

from srn_jax.cli.commands import evaluate as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
