"""Write the textbook's data files, byte for byte."""

from srn_jax.cli.commands import generate_data as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
