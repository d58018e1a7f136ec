"""Restore the networks of a run from its checkpoint and test them.

python scripts/evaluate.py RUN                          # the test accuracies of results.csv again
python scripts/evaluate.py RUN --lengths 5 --predict "3 4 0 0 0"
"""

from srn_jax.cli.commands import evaluate as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
