"""Explain why the networks of a run forget, into RUN/explanation/."""

from srn_jax.cli.commands import explain as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
