"""Exchange weights with the textbook's PyTorch program, and test those that come from it.

python scripts/convert.py RUN --length 10 --seed 0 --to srn.pth     # or .npz, without PyTorch
python scripts/convert.py --from srn.pth --evaluate data            # data/<length>/test.txt
"""

from srn_jax.cli.convert import convert as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
