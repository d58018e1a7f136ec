"""Exchange weights with the textbook's PyTorch program, and test them."""

from srn_jax.cli.commands import convert as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
